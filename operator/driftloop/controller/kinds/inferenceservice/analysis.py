"""The analysis of a canary: compares the candidate with stable by fixed measures over the same time. Pure.

Each comparison has one of three answers: Worse, NotWorse, Unclear. Unclear is never a pass: the analysis continues to
collect requests, and pauses after `canary.maxSeconds`.

Shares are compared by bounds that hold at every check (`sequential.py`). A candidate is promoted when its share of bad
requests is certainly at most the margin above stable's share, and rolled back when it is certainly more than the margin
above it. Latency is compared the same way, by the share of answers that are slower than a limit (`latency.py`).
"""

import math
from dataclasses import dataclass
from datetime import datetime

from driftloop.api.inferenceservice import Analysis, AnalysisVerdict, Canary
from driftloop.controller.kinds.inferenceservice.latency import observations, p95, slow_answers
from driftloop.controller.kinds.inferenceservice.sequential import Answer, Tally, bounds, judge, needed
from driftloop.controller.traffic import Arms, Buckets
from driftloop.controller.vocabulary.conditions import timestamp

MIN_RATINGS = 20  # per arm; with fewer ratings, feedback is not compared


@dataclass(frozen=True)
class Comparison:
    """The answer of one comparison, and the finding as text for a message."""

    answer: Answer
    finding: str


def analyse(canary: Canary, arms: Arms | None, started: datetime, now: datetime) -> Analysis:
    """The state of the analysis, with its verdict: Running, Paused, Promote or RollBack."""
    elapsed = (now - started).total_seconds()
    figures = _figures(arms, started)
    if arms is None:
        why = "no metrics of the two arms: check that Prometheus is up and scrapes the pods, and that no counter is NaN"
        return _wait(figures, canary, started, now, why)
    fewest = min(arms.stable.requests, arms.candidate.requests)
    if fewest < canary.min_requests:
        why = f"{int(fewest)} of {canary.min_requests} requests on the quieter arm"
        return _wait(figures, canary, started, now, why)
    comparisons = compare(canary, arms)
    worse = [c.finding for c in comparisons if c.answer == "Worse"]
    if worse:
        return _verdict(figures, "RollBack", "; ".join(worse))
    unclear = [c.finding for c in comparisons if c.answer == "Unclear"]
    if unclear:
        return _wait(figures, canary, started, now, "; ".join(unclear))
    if elapsed < canary.min_seconds:
        return _verdict(figures, "Running", f"{int(elapsed)} of {canary.min_seconds} seconds")
    return _verdict(figures, "Promote", "; ".join(c.finding for c in comparisons))


def compare(canary: Canary, arms: Arms) -> list[Comparison]:
    """Compare failures, refusals, clients that left, latency, and negative feedback, if there is enough data."""
    stable, candidate = arms.stable, arms.candidate
    comparisons = [
        compare_share(
            "failed",
            Tally(stable.failures, stable.requests - stable.refused),
            Tally(candidate.failures, candidate.requests - candidate.refused),
            canary.max_error_rate_increase,
        )
    ]
    # Refused requests and clients that leave can be frequent on both arms, without being the version's fault. So they
    # can cause a rollback but not delay a promotion. A candidate that hangs shows here first: its clients leave before
    # a slow answer is counted.
    for what, bad_stable, bad_candidate in (
        ("refused", stable.refused, candidate.refused),
        ("given up by clients", stable.left, candidate.left),
    ):
        share = compare_share(
            what,
            Tally(bad_stable, stable.requests),
            Tally(bad_candidate, candidate.requests),
            canary.max_error_rate_increase,
        )
        if share.answer == "Worse":
            comparisons.append(share)
    comparisons.append(_compare_latency("p95", canary, stable.latency, candidate.latency))
    if min(observations(stable.token_latency), observations(candidate.token_latency)) >= canary.min_requests:
        comparisons.append(
            _compare_latency("p95 per output token", canary, stable.token_latency, candidate.token_latency)
        )
    if min(stable.ratings, candidate.ratings) >= MIN_RATINGS and canary.max_negative_feedback_increase < 1:
        comparisons.append(
            compare_share(
                "rated bad",
                Tally(stable.negative, stable.ratings),
                Tally(candidate.negative, candidate.ratings),
                canary.max_negative_feedback_increase,
            )
        )
    return comparisons


def compare_share(what: str, stable: Tally, candidate: Tally, margin: float) -> Comparison:
    """Whether the candidate's share of bad requests is above stable's share by more than `margin`."""
    counts = (
        f"candidate {candidate.bad:.0f} of {candidate.total:.0f} {what}, stable {stable.bad:.0f} of {stable.total:.0f}"
    )
    if min(stable.total, candidate.total) <= 0:
        return Comparison("Unclear", f"{counts}: nothing is known yet")
    return _compare(counts, "more", stable, candidate, margin)


def _compare_latency(what: str, canary: Canary, stable: Buckets, candidate: Buckets) -> Comparison:
    slow = slow_answers(stable, candidate, canary.max_latency_ratio)
    p95s = f"{what}: candidate {_in_seconds(p95(candidate))}, stable {_in_seconds(p95(stable))}"
    if slow is None:
        return Comparison("Unclear", f"{p95s}: a p95 is unknown")
    more = f"above the normal 5 % take longer than {slow.limit:.4g} s"
    return _compare(p95s, more, slow.stable, slow.candidate, canary.max_error_rate_increase)


def _compare(figures: str, more: str, stable: Tally, candidate: Tally, margin: float) -> Comparison:
    """The answer with its reason. `more`: what the difference of the shares means. Both arms must have requests."""
    answer, interval = judge(stable, candidate, margin), bounds(stable, candidate, margin)
    limit = f"margin {_percent(margin)}"
    if answer == "NotWorse":
        return Comparison(answer, f"{figures}: at 95 % at most {_percent(interval.upper)} {more}; {limit}")
    if answer == "Worse":
        return Comparison(answer, f"{figures}: at 95 % at least {_percent(interval.lower)} {more}; {limit}")
    missing = needed(stable, candidate, margin)
    wait = (
        f"about {missing} more on the quieter arm are needed"
        if missing
        else "too close to the margin to estimate how many more are needed"
    )
    between = f"between {_percent(interval.lower)} and {_percent(interval.upper)} {more}"
    return Comparison(answer, f"{figures}: at 95 % {between}; {limit}: {wait}")


def _wait(figures: Analysis, canary: Canary, started: datetime, now: datetime, why: str) -> Analysis:
    """Collect more requests. After max_seconds the rollout pauses; it continues when there are enough requests."""
    if (now - started).total_seconds() < canary.max_seconds:
        return _verdict(figures, "Running", why)
    return _verdict(figures.model_copy(update={"looked": timestamp(now)}), "Paused", why)


def _verdict(figures: Analysis, verdict: AnalysisVerdict, why: str) -> Analysis:
    return figures.model_copy(update={"verdict": verdict, "message": why[:1024]})


def _figures(arms: Arms | None, started: datetime) -> Analysis:
    """The figures of both arms as the status shows them, without a verdict."""
    empty = Analysis(started=timestamp(started))
    if arms is None:
        return empty
    stable, candidate = arms.stable, arms.candidate
    return empty.model_copy(
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
    value = p95(buckets)
    return f"{value:.4g}" if value is not None and math.isfinite(value) else None


def _in_seconds(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.4g} s" if math.isfinite(value) else "above the largest bucket"
