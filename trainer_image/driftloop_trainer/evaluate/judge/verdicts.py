"""From verdicts in both orders to differences, and how far the judge can be trusted. Pure.

Each pair is judged twice, with the candidate's answer first and second. A judge that prefers a position contradicts
itself and counts as undecided. A judge that sometimes decides by chance makes a true difference smaller: if it turns a
share f of its verdicts around, the mean difference is only 1 - 2f times the true one, and a loss would pass unseen. The
two orders are two measurements of the same preference, so the mean of their product, relative to the mean of their
squares, is (1 - 2f)^2: the reliability of repeated measurements (Spearman 1904). The bounds of the difference are
divided by its square root, at its own bound with the same `alpha`. A judge that consistently prefers worse answers
can't be found so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from driftloop.contract.looks import ALPHA
from driftloop_trainer.evaluate.judge.prompts import Verdict
from driftloop_trainer.evaluate.meanbounds import Sample, clustered_error, lower_bound, upper_bound

_HALVINGS = 12


@dataclass(frozen=True)
class Pair:
    """The candidate's results with its answer first and second: 1 it is preferred, -1 the other one is, 0 a tie.

    `asked` False: the judge was not asked, because the result is certain.
    """

    first: int
    second: int
    asked: bool = True

    @property
    def difference(self) -> float:
        """The mean of both orders, in [-1, 1]."""
        return (self.first + self.second) / 2


EQUAL = Pair(0, 0, asked=False)  # the answers are equal


def result(verdict: Verdict | None, candidate: Verdict) -> int:
    """The candidate's result if its answer has the position `candidate`. Without a verdict it counts as lost."""
    if verdict == "tie":
        return 0
    return 1 if verdict == candidate else -1


@dataclass(frozen=True)
class Trust:
    """The factor by which the judge's mean difference may be smaller than the true one, and bounds of the latter."""

    reliability: float
    lower: float
    upper: float
    error: float  # standard error of the true mean difference


def trusted(pairs: Sequence[Pair], clusters: Sequence[str], alpha: float = ALPHA) -> Trust:
    """One-sided bounds of the true mean difference. Items of the same cluster are not independent."""
    differences = [pair.difference for pair in pairs]
    factor = math.sqrt(reliability(pairs, clusters, alpha)) if any(pair.asked for pair in pairs) else 1.0
    lower = _divided(lower_bound(differences, clusters, -1.0, alpha), factor)
    upper = -_divided(-upper_bound(differences, clusters, 1.0, alpha), factor)
    error = min(1.0, clustered_error(differences, clusters) / factor) if factor > 0 else 1.0
    # No more can be lost or gained than the items on which the judge was asked.
    lost = [-1.0 if pair.asked else pair.difference for pair in pairs]
    won = [1.0 if pair.asked else pair.difference for pair in pairs]
    if (worst := lower_bound(lost, clusters, -1.0, alpha)) > lower:
        lower, error = worst, clustered_error(lost, clusters)
    return Trust(factor, lower, min(upper, upper_bound(won, clusters, 1.0, alpha)), error)


def reliability(pairs: Sequence[Pair], clusters: Sequence[str], alpha: float = ALPHA) -> float:
    """The one-sided lower bound of the reliability, in [0, 1]. 0 for a judge that prefers nothing.

    The judge must have been asked about at least one pair.
    """
    asked = [(pair, cluster) for pair, cluster in zip(pairs, clusters, strict=True) if pair.asked]
    groups = [cluster for _, cluster in asked]

    def holds(bound: float) -> bool:
        """Whether the reliability is above `bound`: the mean of the product is above `bound` times that of squares."""
        values = [p.first * p.second - bound * (p.first**2 + p.second**2) / 2 for p, _ in asked]
        return Sample.of(values, groups).shows_above(0.0, -1.0 - bound, alpha)

    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _divided(lower: float, factor: float) -> float:
    """A lower bound of the true difference. A gain is at least as large as it seems."""
    if lower >= 0:
        return lower
    return max(-1.0, lower / factor) if factor > 0 else -1.0
