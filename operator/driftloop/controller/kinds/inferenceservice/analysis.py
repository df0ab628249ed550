"""The analysis of a canary: compares the candidate with stable by fixed measures over the same time. Pure.

Each comparison has one of three answers: Worse, NotWorse, Unclear. Unclear is never a pass: the analysis continues to
collect requests, and pauses after `canary.maxSeconds`.

Shares are compared by bounds that hold at every check (`sequential.py`). A candidate is promoted when its share of bad
requests is certainly at most the margin above stable's share, and rolled back when it is certainly more than the margin
above it. Latency is compared the same way, by the share of answers that are slower than a limit (`latency.py`), and the
answers themselves by their endings and lengths (`answers.py`).

Errors: a promotion needs every comparison, so a candidate that is worse by any measure is promoted with a probability
of at most 5 %, however many measures there are. A rollback needs only one, so that a candidate within all margins is
rolled back with at most 5 % by each of failures, refused requests, clients that left, latency, latency per token and
feedback, and with at most 5 % by all measures of answers together. A canary with several steps of its weights divides
each of these 5 % among the steps, and only its last step can promote.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from driftloop.api.inferenceservice import Analysis, AnalysisVerdict, Canary, Measure
from driftloop.controller.kinds.inferenceservice.answers import compare_answers
from driftloop.controller.kinds.inferenceservice.comparison import Comparison, compare_latency, compare_share
from driftloop.controller.kinds.inferenceservice.latency import observations, p95
from driftloop.controller.kinds.inferenceservice.sequential import ERROR, Tally
from driftloop.controller.traffic import Arms, Buckets
from driftloop.controller.vocabulary.conditions import timestamp

MIN_RATINGS = 20  # per arm; with fewer ratings, feedback is not compared


@dataclass(frozen=True)
class Part:
    """The part of a canary that is analysed: a step of its weights. Without weights the whole canary is one part.

    Each step is analysed by its own requests alone. If the shares of failures differ between times of the day, and the
    candidate gets most of its requests in a later step than stable, then a sum over the steps compares these times.
    """

    number: int = 1  # of this step
    of: int = 1  # number of steps

    @property
    def is_last(self) -> bool:
        """Whether the next step is the promotion."""
        return self.number == self.of

    @property
    def alarm(self) -> float:
        """The probability of a wrong rollback by one comparison, so that those of all steps add up to ERROR."""
        return ERROR / self.of


WHOLE = Part()


def analyse(canary: Canary, arms: Arms | None, started: datetime, now: datetime, part: Part = WHOLE) -> Analysis:
    """The state of the analysis, with its verdict: Running, Paused, NextStep, Promote or RollBack.

    `canary` has the limits of this part.
    """
    elapsed = (now - started).total_seconds()
    figures = _figures(arms, started)
    if arms is None:
        why = "no metrics of the two arms: check that Prometheus is up and scrapes the pods, and that no counter is NaN"
        return _wait(figures, canary, started, now, why)
    fewest = min(arms.stable.requests, arms.candidate.requests)
    if fewest < canary.min_requests:
        why = f"{int(fewest)} of {canary.min_requests} requests on the quieter arm"
        return _wait(figures, canary, started, now, why)
    comparisons = compare(canary, arms, part.alarm)
    figures = figures.model_copy(update={"measures": _measures(comparisons)})
    worse = [c.finding for c in comparisons if c.verdict == "Worse"]
    if worse:
        return _verdict(figures, "RollBack", "; ".join(worse))
    unclear = [c.finding for c in comparisons if c.verdict == "Unclear" and c.is_required]
    if unclear and part.is_last:
        return _wait(figures, canary, started, now, "; ".join(unclear))
    if elapsed < canary.min_seconds:
        return _verdict(figures, "Running", f"{int(elapsed)} of {canary.min_seconds} seconds")
    if not part.is_last:
        return _verdict(figures, "NextStep", f"not shown to be worse by {int(fewest)} requests on the quieter arm")
    passed = [c.finding for c in comparisons if c.verdict == "NotWorse" and c.is_required]
    return _verdict(figures, "Promote", "; ".join(passed))


def compare(canary: Canary, arms: Arms, alarm: float = ERROR) -> list[Comparison]:
    """Compare failures, refusals, clients that left, latency, and feedback and answers, if there is enough data.

    `alarm`: the probability with which one of them is Worse for a candidate that is within the margin.
    """
    stable, candidate, margin = arms.stable, arms.candidate, canary.max_error_rate_increase
    comparisons = [
        compare_share(
            "failed",
            Tally(stable.failures, stable.requests - stable.refused),
            Tally(candidate.failures, candidate.requests - candidate.refused),
            margin,
            alarm,
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
            what, Tally(bad_stable, stable.requests), Tally(bad_candidate, candidate.requests), margin, alarm
        )
        comparisons.append(replace(share, is_required=False))
    comparisons.append(compare_latency("p95", canary, stable.latency, candidate.latency, margin, alarm))
    if min(observations(stable.token_latency), observations(candidate.token_latency)) >= canary.min_requests:
        tokens = stable.token_latency, candidate.token_latency
        comparisons.append(compare_latency("p95 per output token", canary, *tokens, margin, alarm))
    if min(stable.ratings, candidate.ratings) >= MIN_RATINGS and canary.max_negative_feedback_increase < 1:
        comparisons.append(
            compare_share(
                "rated bad",
                Tally(stable.negative, stable.ratings),
                Tally(candidate.negative, candidate.ratings),
                canary.max_negative_feedback_increase,
                alarm,
            )
        )
    return [*comparisons, *compare_answers(canary, stable.answers, candidate.answers, alarm)]


def _measures(comparisons: Sequence[Comparison]) -> list[Measure]:
    return [
        Measure(
            name=comparison.measure,
            verdict=comparison.in_words,
            interval=comparison.interval_in_words,
            margin=comparison.margin_in_words,
            message=comparison.finding,
        )
        for comparison in comparisons
    ]


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


def _number(buckets: Buckets) -> str | None:
    value = p95(buckets)
    return f"{value:.4g}" if value is not None and math.isfinite(value) else None
