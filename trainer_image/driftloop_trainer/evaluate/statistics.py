"""Mean scores with clustered standard errors, paired with the baseline. Pure.

Items of one cluster (near-copies, turns of one conversation) tend to succeed and fail together, so standard errors are
computed over clusters: Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640), with the factor k/(k-1) for k
clusters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from driftloop.contract.looks import alpha_of
from driftloop.contract.result import AnchorResult, SuiteResult
from driftloop_trainer.evaluate.judge.verdicts import Trust
from driftloop_trainer.evaluate.meanbounds import clustered_error, lower_bound, upper_bound


@dataclass(frozen=True)
class Judged:
    """The scores of one item, in [0, 1]. `baseline` is None without a baseline. An item without an answer has 0."""

    cluster: str
    candidate: float
    baseline: float | None = None
    answered: bool = True
    cut: bool = False  # the token limit ended the candidate's answer
    baseline_cut: bool = False


def suite_result(
    name: str, judged: Sequence[Judged], is_graded: bool = False, trust: Trust | None = None, look: int = 1
) -> SuiteResult:
    """Sums and standard errors of one suite. Either all items have a baseline, or none.

    If `is_graded`, scores may lie between 0 and 1, and the result has the bounds that then hold. `trust` has those of a
    judge's verdicts. `look` is the number of this look at the items, which determines how certain the bounds are.
    """
    clusters = [item.cluster for item in judged]
    scores = [item.candidate for item in judged]
    alone = SuiteResult(
        name=name,
        items=len(judged),
        clusters=len(set(clusters)),
        correct=_sum(scores),
        standard_error=_rounded(clustered_error(scores, clusters)),
        errors=sum(not item.answered for item in judged),
        cut=sum(item.cut for item in judged) or None,
        look=look if look > 1 else None,
    )
    if not judged:
        return alone
    if any(item.baseline is None for item in judged):
        return alone.model_copy(update=_bounds(scores, clusters, 0.0, look) if is_graded else {})
    difference = [item.candidate - (item.baseline or 0.0) for item in judged]
    error = clustered_error(difference, clusters)
    if trust is not None:
        bounds: dict[str, float] = _trusted_bounds(trust)
        error = trust.error
    elif is_graded:
        bounds = _bounds(difference, clusters, -1.0, look)
    else:
        bounds = {"gained": difference.count(1.0), "lost": difference.count(-1.0)}
    paired = {
        "baseline_correct": _sum([item.baseline or 0.0 for item in judged]),
        "baseline_cut": sum(item.baseline_cut for item in judged) or None,
        "difference_standard_error": _rounded(error),
    }
    return alone.model_copy(update=paired | bounds)


def anchor_result(judged: Sequence[Judged], is_graded: bool, look: int) -> AnchorResult | None:
    """The comparison with the anchor, which is the baseline in `judged`; None without one."""
    if not judged:
        return None
    found = suite_result("", judged, is_graded, look=look)
    if found.baseline_correct is None or found.difference_standard_error is None:
        return None
    return AnchorResult(
        correct=found.baseline_correct,
        gained=found.gained,
        lost=found.lost,
        error=found.difference_standard_error,
        lower=found.lower,
        upper=found.upper,
        look=found.look,
    )


def _bounds(values: Sequence[float], clusters: Sequence[str], least: float, look: int) -> dict[str, float]:
    """The bounds of the mean of values in [least, 1], rounded outwards."""
    alpha = alpha_of(look)
    return _outwards(lower_bound(values, clusters, least, alpha), upper_bound(values, clusters, 1.0, alpha), least)


def _trusted_bounds(trust: Trust) -> dict[str, float]:
    return _outwards(trust.lower, trust.upper, -1.0) | {"reliability": round(trust.reliability, 2)}


def _outwards(lower: float, upper: float, least: float) -> dict[str, float]:
    return {"lower": max(least, math.floor(lower * 1e5) / 1e5), "upper": min(1.0, math.ceil(upper * 1e5) / 1e5)}


def _sum(scores: Sequence[float]) -> int | float:
    """The sum of the scores: a number of items if it is whole."""
    total = round(math.fsum(scores), 4)
    return int(total) if total.is_integer() else total


def _rounded(error: float) -> float:
    """Round up to six decimals: the results of sixteen suites must fit into a termination message."""
    return math.ceil(error * 1e6) / 1e6
