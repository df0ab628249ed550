"""What a suite's items can show. Pure.

The gates judge by these bounds, and prepare refuses a suite that could show nothing by them. Sources of the formulas
stand with the gates.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from statistics import NormalDist

from driftloop.api.base import SuiteSpec

Z_CONFIDENCE = NormalDist().inv_cdf(0.95)
Z_POWER = NormalDist().inv_cdf(0.80)

_MOST = 10**9  # items; what they can't show, none can


@dataclass(frozen=True)
class Difference:
    """The paired difference candidate - baseline, in shares of items."""

    value: float
    error: float  # its standard error, smoothed

    @property
    def lower(self) -> float:
        return self.value - Z_CONFIDENCE * self.error

    @property
    def upper(self) -> float:
        return self.value + Z_CONFIDENCE * self.error

    @property
    def detectable(self) -> float:
        """The smallest loss that this many items show with power 0.8."""
        return (Z_CONFIDENCE + Z_POWER) * self.error


def paired_difference(items: int, clusters: int, gained: int, lost: int, clustered_error: float) -> Difference:
    """The difference with a standard error that is never too good.

    The largest of three: the clustered one; that of matched shares with half an observation added to each cell; and
    that of `clusters` observations of which none differed. So ten items that all agree prove nothing, and nor do a
    thousand near-copies of three.
    """
    more, less, total = gained + 0.5, lost + 0.5, items + 2
    smoothed = math.sqrt(more + less - (more - less) ** 2 / total) / total
    return Difference((gained - lost) / items, max(clustered_error, smoothed, 1 / (clusters + 2)))


def share_bounds(items: int, clusters: int, correct: int, clustered_error: float) -> tuple[float, float]:
    """One-sided 95 % bounds of a share: the wider of Wilson's and the clustered one.

    Wilson's holds for few items and shares near 0 or 1, the clustered one for items that are alike.
    """
    share, z2 = correct / items, Z_CONFIDENCE**2
    centre = (share + z2 / (2 * items)) / (1 + z2 / items)
    half = Z_CONFIDENCE * math.sqrt(share * (1 - share) / items + z2 / (4 * items**2)) / (1 + z2 / items)
    spread = Z_CONFIDENCE * max(clustered_error, 1 / (clusters + 2))
    return max(0.0, min(centre - half, share - spread)), min(1.0, max(centre + half, share + spread))


def least_items(suite: SuiteSpec) -> int | None:
    """The fewest independent items with which the suite's gate could pass; None where no number is enough.

    Paired suites: as many as show a loss of `delta` where no item differs. Floors: as many as show the minimum where
    every item is right. Fewer are inconclusive whatever the version answers.
    """
    counts = range(1, _MOST)
    position = bisect_left(counts, True, key=lambda items: _could_pass(suite, items))
    return counts[position] if position < len(counts) else None


def _could_pass(suite: SuiteSpec, items: int) -> bool:
    if suite.kind == "floor":
        return share_bounds(items, items, items, 0.0)[0] >= suite.minimum
    if suite.delta == 0:  # asks for a version that is better outright
        return paired_difference(items, items, items, 0, 0.0).lower > 0
    return paired_difference(items, items, 0, 0, 0.0).detectable <= suite.delta
