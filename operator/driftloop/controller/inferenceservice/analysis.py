"""Is the candidate as good as stable? Both arms at the same time, by fixed measures. Pure.

Three answers to each question: worse, not worse, cannot say. Cannot say is never a pass: it goes on collecting, and
pauses when the time is up.

Shares are compared by the difference of proportions with one success and one failure added to each arm (Agresti and
Caffo, The American Statistician 54(4), 2000), which holds with no failure at all. `Worse` needs the difference to be
above the margin by more than noise: of 50 requests a single failure is 2 % and proves nothing.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from driftloop.api.inferenceservice import Analysis, Canary
from driftloop.controller.conditions import timestamp
from driftloop.controller.inferenceservice.observed import Arm, Arms

Answer = Literal["Worse", "NotWorse", "Unclear"]
Z_ONE_SIDED_95 = 1.645
# A p95 rests on a twentieth of the requests. Below this multiple of minRequests a bad one may be chance.
LATENCY_PATIENCE = 3
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
        return _wait(found, canary, elapsed, why)
    fewest = min(arms.stable.requests, arms.candidate.requests)
    if fewest < canary.min_requests:
        return _wait(found, canary, elapsed, f"{int(fewest)} of {canary.min_requests} requests on the quieter arm")
    comparisons = compare(canary, arms)
    worse = [c.finding for c in comparisons if c.answer == "Worse"]
    if worse:
        return _verdict(found, "RollBack", "; ".join(worse))
    unclear = [c.finding for c in comparisons if c.answer == "Unclear"]
    if unclear:
        return _wait(found, canary, elapsed, "; ".join(unclear))
    if elapsed < canary.min_seconds:
        return _verdict(found, "Running", f"{int(elapsed)} of {canary.min_seconds} seconds")
    return _verdict(found, "Promote", "; ".join(c.finding for c in comparisons))


def compare(canary: Canary, arms: Arms) -> list[Comparison]:
    """Error rate, p95 latency, negative feedback."""
    stable, candidate = arms.stable, arms.candidate
    errors = compare_share(
        (stable.errors, stable.requests), (candidate.errors, candidate.requests), canary.max_error_rate_increase
    )
    found = [Comparison(errors, f"errors {_share(candidate.errors, candidate.requests)}, stable "
                                f"{_share(stable.errors, stable.requests)}")]  # fmt: skip
    found.append(_latency(canary, arms))
    if min(stable.ratings, candidate.ratings) >= MIN_RATINGS:
        feedback = compare_share(
            (stable.negative, stable.ratings),
            (candidate.negative, candidate.ratings),
            canary.max_negative_feedback_increase,
        )
        found.append(Comparison(feedback, f"negative feedback {_share(candidate.negative, candidate.ratings)}, "
                                          f"stable {_share(stable.negative, stable.ratings)}"))  # fmt: skip
    return found


def compare_share(stable: tuple[float, float], candidate: tuple[float, float], margin: float) -> Answer:
    """Bad ones of all, an arm: is the candidate's share above stable's by more than `margin`?"""
    if min(stable[1], candidate[1]) <= 0:
        return "Unclear"
    if candidate[0] / candidate[1] - stable[0] / stable[1] <= margin:
        return "NotWorse"
    (p, p_n), (q, q_n) = _smoothed(*stable), _smoothed(*candidate)
    error = math.sqrt(p * (1 - p) / p_n + q * (1 - q) / q_n)
    return "Worse" if q - p - margin > Z_ONE_SIDED_95 * error else "Unclear"


def _smoothed(bad: float, total: float) -> tuple[float, float]:
    return (bad + 1) / (total + 2), total + 2


def _latency(canary: Canary, arms: Arms) -> Comparison:
    stable, candidate = arms.stable.latency, arms.candidate.latency
    if stable is None or candidate is None or not (math.isfinite(stable) and math.isfinite(candidate)):
        return Comparison("Unclear", "p95 latency is not known")
    finding = f"p95 {candidate:.3f} s, stable {stable:.3f} s"
    if candidate <= stable * canary.max_latency_ratio:
        return Comparison("NotWorse", finding)
    enough = min(arms.stable.requests, arms.candidate.requests) >= LATENCY_PATIENCE * canary.min_requests
    return Comparison("Worse" if enough else "Unclear", finding)


def _wait(found: Analysis, canary: Canary, elapsed: float, why: str) -> Analysis:
    """Go on collecting; after max_seconds the rollout pauses, and still goes on when figures come."""
    return _verdict(found, "Paused" if elapsed >= canary.max_seconds else "Running", why)


def _verdict(found: Analysis, verdict: Literal["Running", "Paused", "Promote", "RollBack"], why: str) -> Analysis:
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
            "stable_error_rate": _decimal(stable.errors, stable.requests),
            "candidate_error_rate": _decimal(candidate.errors, candidate.requests),
            "stable_latency": _seconds(stable),
            "candidate_latency": _seconds(candidate),
            "stable_negative_feedback": _decimal(stable.negative, stable.ratings),
            "candidate_negative_feedback": _decimal(candidate.negative, candidate.ratings),
        }
    )


def _decimal(part: float, total: float) -> str | None:
    return f"{part / total:.4f}" if total > 0 else None


def _share(part: float, total: float) -> str:
    return f"{part / total:.1%}" if total > 0 else "unknown"


def _seconds(arm: Arm) -> str | None:
    return f"{arm.latency:.3f}" if arm.latency is not None and math.isfinite(arm.latency) else None
