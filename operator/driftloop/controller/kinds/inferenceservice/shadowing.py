"""The analysis of a shadow: pairs of answers of stable and the candidate to the same requests. Pure.

The candidate goes on to the canary when in each measure it is certainly not worse: the share of pairs in which it is
worse is at most the margin above the share in which stable is. It is rolled back when it certainly is worse in one of
them. A wrong pass has a probability of at most 5 %. A candidate within all margins is rolled back with at most 5 % by
all measures together.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from driftloop.api.inferenceservice import Canary, Measure, Shadow, ShadowStatus
from driftloop.controller.kinds.inferenceservice.comparison import Comparison, percent
from driftloop.controller.kinds.inferenceservice.paired import bounds_of_pairs, judge_pairs
from driftloop.controller.kinds.inferenceservice.sequential import ERROR
from driftloop.controller.traffic import Pairs, ShadowCounts
from driftloop.controller.vocabulary.conditions import shorten, timestamp

TESTS = 4  # failed, slower, longer, shorter
ALARM = ERROR / TESTS


@dataclass(frozen=True)
class Shadowing:
    """What the spec of a service says about its shadow."""

    shadow: Shadow
    canary: Canary


def analyse_shadow(limits: Shadowing, counts: ShadowCounts | None, started: datetime, now: datetime) -> ShadowStatus:
    """The state of the shadow, with its verdict: Running, Paused, Pass or RollBack."""
    shadow = limits.shadow
    figures = _figures(counts, started, shadow)
    late = (now - started).total_seconds() >= shadow.max_seconds

    def wait(why: str) -> ShadowStatus:
        update = {"verdict": "Paused" if late else "Running", "message": shorten(why, 1024)}
        return figures.model_copy(update=update | ({"looked": timestamp(now)} if late else {}))

    if counts is None:
        return wait("no metrics of stable's pods: check that Prometheus is up and scrapes the pods")
    comparisons = list(compare_pairs(limits, counts))
    figures = figures.model_copy(update={"measures": [_measure(comparison) for comparison in comparisons]})
    worse = [comparison.finding for comparison in comparisons if comparison.verdict == "Worse"]
    if worse:
        return figures.model_copy(update={"verdict": "RollBack", "message": shorten("; ".join(worse), 1024)})
    pairs = counts.measure("failed").total
    if pairs < shadow.requests:
        dropped = f", {counts.dropped_total:.0f} copies were dropped" if counts.dropped_total else ""
        return wait(f"{pairs:.0f} of {shadow.requests} pairs{dropped}")
    unclear = [comparison.finding for comparison in comparisons if comparison.verdict == "Unclear"]
    if unclear:
        return wait("; ".join(unclear))
    passed = "; ".join(comparison.finding for comparison in comparisons if comparison.verdict == "NotWorse")
    return figures.model_copy(update={"verdict": "Pass", "message": shorten(passed, 1024)})


def compare_pairs(limits: Shadowing, counts: ShadowCounts) -> Iterator[Comparison]:
    """One comparison per measure. Without enough pairs that have a length, lengths and times are not compared."""
    shadow, canary = limits.shadow, limits.canary
    failed, slow, length = (counts.measure(name) for name in ("failed", "slow", "length"))
    yield _compare("failed", failed, shadow.max_failure_increase)
    yield from _if_enough(
        f"{canary.max_latency_ratio:g} times slower per token", slow, shadow, shadow.max_slow_increase
    )
    swapped = Pairs(length.stable, length.candidate, length.neither)
    yield from _if_enough("1.5 times longer", length, shadow, canary.max_length_change)
    yield from _if_enough("1.5 times shorter", swapped, shadow, canary.max_length_change)


def _if_enough(what: str, pairs: Pairs, shadow: Shadow, margin: float) -> Iterator[Comparison]:
    if margin >= 1:
        return
    if pairs.total < shadow.requests:
        yield Comparison(what, "NotCompared", f"{what}: {pairs.total:.0f} of {shadow.requests} pairs of longer answers")
        return
    yield _compare(what, pairs, margin)


def _compare(what: str, pairs: Pairs, margin: float) -> Comparison:
    counts = (
        f"{what}: in {pairs.total:.0f} pairs only the candidate {pairs.candidate:.0f}, only stable {pairs.stable:.0f}"
    )
    verdict, interval = judge_pairs(pairs, margin, ALARM), bounds_of_pairs(pairs, ALARM)
    limit = f"margin {percent(margin)}"
    match verdict:
        case "NotWorse":
            finding = f"{counts}: at 95 % at most {percent(interval.upper)} more; {limit}"
        case "Worse":
            finding = f"{counts}: at {100 * (1 - ALARM):.4g} % at least {percent(interval.lower)} more; {limit}"
        case "Unclear":
            finding = f"{counts}: {percent(interval.lower)} to {percent(interval.upper)} more; {limit}"
        case never:
            assert_never(never)
    return Comparison(what, verdict, finding, interval, margin)


def _measure(comparison: Comparison) -> Measure:
    return Measure(
        name=comparison.measure,
        verdict=comparison.in_words,
        interval=comparison.interval_in_words,
        margin=comparison.margin_in_words,
        message=comparison.finding,
    )


def _figures(counts: ShadowCounts | None, started: datetime, shadow: Shadow) -> ShadowStatus:
    figures = ShadowStatus(started=timestamp(started))
    if counts is None:
        return figures
    pairs = int(counts.measure("failed").total)
    equal, different = counts.equal
    return figures.model_copy(
        update={
            "pairs": pairs,
            "progress": f"{min(pairs, shadow.requests)}/{shadow.requests}",
            "dropped": _whole(counts.dropped),
            "equal_answers": f"{equal:.0f} of {equal + different:.0f}" if equal + different else None,
        }
    )


def _whole(counts: Mapping[str, float]) -> dict[str, int]:
    return {reason: int(count) for reason, count in sorted(counts.items()) if count}
