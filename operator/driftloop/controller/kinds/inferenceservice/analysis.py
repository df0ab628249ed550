"""Is the candidate as good as stable? Both arms at the same time, by fixed measures. Pure.

Three answers to each question: worse, not worse, cannot say. Cannot say is never a pass: it goes on collecting, and
pauses when the time is up.

Shares are compared by bounds that hold at every look (`sequential.py`): a candidate is promoted when at most the margin
more of its requests can be bad, and rolled back when more than the margin must be. Latency is compared by p95 (of an
answer, and of an output token), and rolls back by such a bound too (`latency.py`).
"""

import math
from dataclasses import dataclass
from datetime import datetime

from driftloop.api.inferenceservice import Analysis, AnalysisVerdict, Canary
from driftloop.controller.kinds.inferenceservice.latency import observations, p95, slower
from driftloop.controller.kinds.inferenceservice.sequential import Answer, Tally, bounds, judge, needed
from driftloop.controller.traffic import Arms, Buckets
from driftloop.controller.vocabulary.conditions import timestamp

MIN_RATINGS = 20  # an arm; below it feedback is not compared


@dataclass(frozen=True)
class Comparison:
    """One question, its answer and the finding in words."""

    answer: Answer
    finding: str


def analyse(canary: Canary, arms: Arms | None, started: datetime, now: datetime) -> Analysis:
    """The state of the analysis, with its verdict: Running, Paused, Promote or RollBack."""
    elapsed = (now - started).total_seconds()
    found = _figures(arms, started)
    if arms is None:
        why = "no figures of the two arms: is Prometheus up, does it scrape the pods, and is no counter of theirs NaN?"
        return _wait(found, canary, started, now, why)
    fewest = min(arms.stable.requests, arms.candidate.requests)
    if fewest < canary.min_requests:
        return _wait(found, canary, started, now, f"{int(fewest)} of {canary.min_requests} requests on the quieter arm")
    comparisons = compare(canary, arms)
    worse = [c.finding for c in comparisons if c.answer == "Worse"]
    if worse:
        return _verdict(found, "RollBack", "; ".join(worse))
    unclear = [c.finding for c in comparisons if c.answer == "Unclear"]
    if unclear:
        return _wait(found, canary, started, now, "; ".join(unclear))
    if elapsed < canary.min_seconds:
        return _verdict(found, "Running", f"{int(elapsed)} of {canary.min_seconds} seconds")
    return _verdict(found, "Promote", "; ".join(c.finding for c in comparisons))


def compare(canary: Canary, arms: Arms) -> list[Comparison]:
    """Failures, refusals, clients that left, latency, negative feedback. What is not compared is not in the list."""
    stable, candidate = arms.stable, arms.candidate
    found = [
        compare_share(
            "failed",
            Tally(stable.failures, stable.requests - stable.refused),
            Tally(candidate.failures, candidate.requests - candidate.refused),
            canary.max_error_rate_increase,
        )
    ]
    # Clients' mistakes, and clients that leave, are as many on both arms, and may be too many to tell more: they can
    # only speak against it. A candidate that hangs is left by all before it is slow.
    for what, bad, bad_too in (
        ("refused", stable.refused, candidate.refused),
        ("given up by clients", stable.left, candidate.left),
    ):
        share = compare_share(
            what, Tally(bad, stable.requests), Tally(bad_too, candidate.requests), canary.max_error_rate_increase
        )
        if share.answer == "Worse":
            found.append(share)
    found.append(_slower("p95", canary, stable.latency, candidate.latency))
    if min(observations(stable.token_latency), observations(candidate.token_latency)) >= canary.min_requests:
        found.append(_slower("p95 an output token", canary, stable.token_latency, candidate.token_latency))
    if min(stable.ratings, candidate.ratings) >= MIN_RATINGS and canary.max_negative_feedback_increase < 1:
        found.append(
            compare_share(
                "rated bad",
                Tally(stable.negative, stable.ratings),
                Tally(candidate.negative, candidate.ratings),
                canary.max_negative_feedback_increase,
            )
        )
    return found


def compare_share(what: str, stable: Tally, candidate: Tally, margin: float) -> Comparison:
    """Bad ones of all, an arm: is the candidate's share above stable's by more than `margin`?"""
    found = bounds(stable, candidate, margin)
    counts = (
        f"candidate {candidate.bad:.0f} of {candidate.total:.0f} {what}, "
        f"stable {stable.bad:.0f} of {stable.total:.0f}: at 95 %"
    )
    limit = f"margin {_percent(margin)}"
    if min(stable.total, candidate.total) <= 0:
        return Comparison("Unclear", f"{counts} nothing can be said yet")
    answer = judge(stable, candidate, margin)
    if answer == "NotWorse":
        return Comparison(answer, f"{counts} at most {_percent(found.upper)} more; {limit}")
    if answer == "Worse":
        return Comparison(answer, f"{counts} at least {_percent(found.lower)} more; {limit}")
    missing = needed(stable, candidate, margin)
    wait = (
        f"about {missing} more on the quieter arm will tell"
        if missing
        else "too near to the margin to say how many more will tell"
    )
    return Comparison(
        "Unclear", f"{counts} between {_percent(found.lower)} and {_percent(found.upper)} more; {limit}: {wait}"
    )


def _slower(what: str, canary: Canary, stable: Buckets, candidate: Buckets) -> Comparison:
    normal, found = p95(stable), p95(candidate)
    if normal is None or math.isinf(normal) or found is None:
        return Comparison(
            "Unclear", f"{what} is not known: candidate {_in_seconds(found)}, stable {_in_seconds(normal)}"
        )
    answer = slower(stable, candidate, canary.max_latency_ratio)
    finding = f"{what} {_in_seconds(found)}, stable {_in_seconds(normal)}"
    return Comparison(answer, finding + ("; it may be chance" if answer == "Unclear" else ""))


def _wait(found: Analysis, canary: Canary, started: datetime, now: datetime, why: str) -> Analysis:
    """Go on collecting; after max_seconds the rollout pauses, and still goes on when figures come."""
    if (now - started).total_seconds() < canary.max_seconds:
        return _verdict(found, "Running", why)
    return _verdict(found.model_copy(update={"looked": timestamp(now)}), "Paused", why)


def _verdict(found: Analysis, verdict: AnalysisVerdict, why: str) -> Analysis:
    return found.model_copy(update={"verdict": verdict, "message": why[:1024]})


def _figures(arms: Arms | None, started: datetime) -> Analysis:
    found = Analysis(started=timestamp(started))
    if arms is None:
        return found
    stable, candidate = arms.stable, arms.candidate
    return found.model_copy(
        update={
            "stable_requests": int(stable.requests),
            "candidate_requests": int(candidate.requests),
            "stable_error_rate": _decimal(stable.failures, stable.requests - stable.refused),
            "candidate_error_rate": _decimal(candidate.failures, candidate.requests - candidate.refused),
            "stable_latency": _number(stable.latency),
            "candidate_latency": _number(candidate.latency),
            "stable_token_latency": _number(stable.token_latency),
            "candidate_token_latency": _number(candidate.token_latency),
            "stable_negative_feedback": _decimal(stable.negative, stable.ratings),
            "candidate_negative_feedback": _decimal(candidate.negative, candidate.ratings),
        }
    )


def _decimal(part: float, total: float) -> str | None:
    return f"{part / total:.4f}" if total > 0 else None


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(buckets: Buckets) -> str | None:
    found = p95(buckets)
    return f"{found:.4g}" if found is not None and math.isfinite(found) else None


def _in_seconds(found: float | None) -> str:
    if found is None:
        return "none"
    return f"{found:.4g} s" if math.isfinite(found) else "longer than is measured"
