"""What a suite's items can show. Pure.

The gates judge by these bounds, and prepare refuses a suite that could show nothing by them.

Sources of the formulas:
- paired difference: the score interval of Tango 1998 ("Equivalence test and confidence interval for the difference in
  proportions for the paired-sample design", Statistics in Medicine 17), less half an item for continuity. With it a
  gate of 30 to 2,000 independent items passes a true loss of delta in at most 5 % (bench/gate_errors.py);
- clusters: the design effect, with Student's t on clusters - 1 degrees of freedom: Miller 2024 (arXiv 2411.00640);
- minimum detectable effect, (t.95 + z.80) standard errors: Miller 2024; the standard error of matched shares with half
  an observation added to each of the four cells: Agresti & Min 2005;
- lower bound of a share: Wilson 1927;
- quantiles of t: Hill 1970, Communications of the ACM, algorithm 396.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

from driftloop.api.base import SuiteSpec

CONFIDENCE = 0.95
Z_CONFIDENCE = NormalDist().inv_cdf(CONFIDENCE)
Z_POWER = NormalDist().inv_cdf(0.80)

_MOST = 10**9  # items; what they can't show, none can
_CONTINUITY = 0.5  # items
_HALVINGS = 40  # of the interval in which a bound is looked for


@dataclass(frozen=True)
class Difference:
    """The paired difference candidate - baseline, in shares of items, with one-sided 95 % bounds."""

    value: float
    lower: float
    upper: float
    detectable: float  # the smallest loss that this many items show with power 0.8, and that could be excluded at all

    def excludes_loss(self, delta: float) -> bool:
        """No loss of `delta` or more, shown by enough items or by being better outright."""
        return self.lower > 0 or (self.lower > -delta and self.detectable <= delta)


def paired_difference(items: int, clusters: int, gained: int, lost: int, clustered_error: float) -> Difference:
    """The difference with bounds that are never too good.

    Items that are alike count for less: for as many as the clustered error leaves of them. And whatever that error
    is, the bounds are no better than those of `clusters` items of which none differed: a thousand near-copies of three
    prove nothing.
    """
    value = (gained - lost) / items
    more, less, total = gained + 0.5, lost + 0.5, items + 2
    smoothed = math.sqrt(more + less - (more - less) ** 2 / total) / total
    error = max(clustered_error, smoothed, 1 / (clusters + 2))
    t = t_quantile(clusters - 1)
    counted = (smoothed / max(smoothed, clustered_error)) ** 2
    alike = _score_lower(clusters, 0.0, 0.0, t)
    return Difference(
        value=value,
        lower=max(-1.0, min(_score_lower(items * counted, gained * counted, lost * counted, t), value + alike)),
        upper=min(1.0, max(-_score_lower(items * counted, lost * counted, gained * counted, t), value - alike)),
        detectable=max((t + Z_POWER) * error, -alike),
    )


def share_bounds(items: int, clusters: int, correct: int, clustered_error: float) -> tuple[float, float]:
    """One-sided 95 % bounds of a share: the wider of Wilson's and the clustered one.

    Wilson's holds for few items and shares near 0 or 1, the clustered one for items that are alike.
    """
    share, z2 = correct / items, Z_CONFIDENCE**2
    centre = (share + z2 / (2 * items)) / (1 + z2 / items)
    half = Z_CONFIDENCE * math.sqrt(share * (1 - share) / items + z2 / (4 * items**2)) / (1 + z2 / items)
    spread = t_quantile(clusters - 1) * max(clustered_error, 1 / (clusters + 2))
    return max(0.0, min(centre - half, share - spread)), min(1.0, max(centre + half, share + spread))


def least_items(suite: SuiteSpec) -> int | None:
    """The fewest independent items with which the suite's gate could pass; None where no number is enough.

    retention: as many as show a loss of `delta` where no item differs. target: as many as show the gain where every
    item is gained. floor: as many as show the minimum where every item is right. Fewer are inconclusive whatever the
    version answers.
    """
    counts = range(1, _MOST)
    position = bisect_left(counts, True, key=lambda items: _could_pass(suite, items))
    return counts[position] if position < len(counts) else None


@lru_cache(maxsize=4096)
def t_quantile(degrees: int) -> float:
    """The 95 % quantile of Student's t, to four digits and better; infinite below one degree of freedom."""
    tail = 2 * (1 - CONFIDENCE)
    if degrees < 1:
        return math.inf
    if degrees == 1:
        return math.tan(math.pi / 2 * (1 - tail))
    if degrees == 2:
        return math.sqrt(2 / (tail * (2 - tail)) - 2)
    n = float(degrees)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20_700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = (d * tail) ** (2 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tail / 2)
        y = x**2
        c += 0.3 * (n - 4.5) * (x + 0.6) if n < 5 else 0.0
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y**2)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (
            n + 2
        ) + 1 / y
    return math.sqrt(n * y)


def _score_lower(items: float, gained: float, lost: float, t: float) -> float:
    """The smallest difference that the score test doesn't refuse. Counts may be fractions, of items that are alike."""
    low, high = -1.0, (gained - lost) / items
    if math.isinf(t):
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _score(items, gained, lost, middle) > t:
            low = middle
        else:
            high = middle
    return low


def _score(items: float, gained: float, lost: float, difference: float) -> float:
    """Tango's statistic of the hypothesis that the true difference is `difference`; it falls as that rises."""
    distance = gained - lost - items * difference - _CONTINUITY
    linear = (2 * items - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    # The share of lost items that the hypothesis makes likeliest: the larger root of a quadratic equation.
    share = (math.sqrt(max(linear**2 - 8 * items * constant, 0.0)) - linear) / (4 * items)
    variance = items * (2 * share + difference * (1 - difference))
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def _could_pass(suite: SuiteSpec, items: int) -> bool:
    match suite.kind:
        case "floor":
            return share_bounds(items, items, items, 0.0)[0] >= suite.minimum
        case "target":
            return paired_difference(items, items, items, 0, 0.0).lower > suite.min_gain
        case "retention" if suite.delta == 0:  # asks for a version that is better outright
            return paired_difference(items, items, items, 0, 0.0).lower > 0
        case _:
            return paired_difference(items, items, 0, 0, 0.0).excludes_loss(suite.delta)
