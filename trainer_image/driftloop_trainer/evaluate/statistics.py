"""Accuracies with clustered standard errors, paired with the baseline. Pure.

Items of one cluster (near-copies, turns of one conversation) tend to succeed and fail together, so standard errors are
computed over clusters: Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640), with the factor k/(k-1) for k
clusters.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from driftloop.contract.result import SuiteResult


@dataclass(frozen=True)
class Judged:
    """The outcome of one item. `baseline` is None without a baseline. An item without an answer is wrong."""

    cluster: str
    candidate: bool
    baseline: bool | None = None
    answered: bool = True
    cut: bool = False  # the token limit ended the candidate's answer
    baseline_cut: bool = False


def suite_result(name: str, judged: Sequence[Judged]) -> SuiteResult:
    """Counts and standard errors of one suite. Either all items have a baseline, or none."""
    clusters = [item.cluster for item in judged]
    right = [float(item.candidate) for item in judged]
    alone = SuiteResult(
        name=name,
        items=len(judged),
        clusters=len(set(clusters)),
        correct=sum(item.candidate for item in judged),
        standard_error=_rounded(clustered_error(right, clusters)),
        errors=sum(not item.answered for item in judged),
        cut=sum(item.cut for item in judged) or None,
    )
    if not judged or any(item.baseline is None for item in judged):
        return alone
    difference = [float(item.candidate) - float(bool(item.baseline)) for item in judged]
    return alone.model_copy(
        update={
            "baseline_correct": sum(bool(item.baseline) for item in judged),
            "gained": difference.count(1.0),
            "lost": difference.count(-1.0),
            "baseline_cut": sum(item.baseline_cut for item in judged) or None,
            "difference_standard_error": _rounded(clustered_error(difference, clusters)),
        }
    )


def clustered_error(values: Sequence[float], clusters: Sequence[str]) -> float:
    """Standard error of the mean of `values`. 1.0 for at most one cluster, whose spread is unknown."""
    if len(set(clusters)) < 2:
        return 1.0
    mean = math.fsum(values) / len(values)
    sums: defaultdict[str, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    spread = math.fsum(total**2 for total in sums.values())
    return math.sqrt(spread * len(sums) / (len(sums) - 1)) / len(values)


def _rounded(error: float) -> float:
    """Round up to six decimals: the results of sixteen suites must fit into a termination message."""
    return math.ceil(error * 1e6) / 1e6
