"""Confidence bounds for a suite's results. Pure.

The gates use these bounds for their verdicts, and prepare refuses a suite whose gate could never pass. `alpha` is the
probability with which a one-sided bound may be wrong: contract/looks.py has it for each look at the same items.

Sources of the formulas:
- paired difference: the score interval of Tango 1998 ("Equivalence test and confidence interval for the difference in
  proportions for the paired-sample design", Statistics in Medicine 17), with a continuity correction of half an item.
  With it a gate of 30 to 2,000 independent items passes a true loss of delta in at most alpha (bench/gate_errors.py);
- clusters: the design effect, with Student's t on clusters - 1 degrees of freedom: Miller 2024 (arXiv 2411.00640);
- minimum detectable effect, (t + z.80) standard errors: Miller 2024; the standard error of matched shares with half
  an observation added to each of the four cells: Agresti & Min 2005;
- lower bound of a share: Wilson 1927;
- scores between 0 and 1: the evaluation's client computes the bounds, as they need every score
  (driftloop_trainer/evaluate/meanbounds.py); here is what follows from them.

tests/unit/contract/test_oracles.py compares the figures with those of other libraries.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, assert_never

from driftloop.api.suite import SuiteSpec
from driftloop.contract.looks import ALPHA, alpha_of
from driftloop.contract.student import t_quantile

Z_POWER = NormalDist().inv_cdf(0.80)

DIFFERING = 0.1  # share of the items that two equally good versions are expected to answer differently

_MOST = 10**9  # items; if this many can't show a difference, more can't either
_CONTINUITY = 0.5  # continuity correction, in items
_HALVINGS = 40  # steps of the bisection for a bound


@dataclass(frozen=True)
class Difference:
    """The paired difference candidate - baseline, in shares of items, with one-sided bounds."""

    value: float
    lower: float
    upper: float
    detectable: float  # the smallest loss that this many items can show with power 0.8, and can exclude at all

    def excludes_loss(self, delta: float) -> bool:
        """Whether a loss of `delta` or more is excluded. With few items the lower bound is too low for it."""
        return self.lower > -delta


def paired_difference(
    items: int, clusters: int, gained: int, lost: int, clustered_error: float, alpha: float = ALPHA
) -> Difference:
    """The difference with conservative bounds.

    Similar items count less: the clustered error determines the effective number of items. The bounds are also never
    narrower than those of `clusters` items without a difference: a thousand near-copies of three items prove nothing.
    """
    value = (gained - lost) / items
    more, less, total = gained + 0.5, lost + 0.5, items + 2
    smoothed = math.sqrt(more + less - (more - less) ** 2 / total) / total
    error = max(clustered_error, smoothed, 1 / (clusters + 2))
    t = t_quantile(clusters - 1, alpha)
    counted = (smoothed / max(smoothed, clustered_error)) ** 2
    no_difference = _score_lower(clusters, 0.0, 0.0, t)
    return Difference(
        value=value,
        lower=max(-1.0, min(_score_lower(items * counted, gained * counted, lost * counted, t), value + no_difference)),
        upper=min(1.0, max(-_score_lower(items * counted, lost * counted, gained * counted, t), value - no_difference)),
        detectable=max((t + Z_POWER) * error, -no_difference),
    )


def graded_difference(
    value: float, clusters: int, clustered_error: float, bounds: tuple[float, float], alpha: float = ALPHA
) -> Difference:
    """The difference of mean scores between 0 and 1, with its `bounds` from the evaluation's client."""
    detectable = (t_quantile(clusters - 1, alpha) + Z_POWER) * clustered_error
    return Difference(value, *bounds, detectable=max(detectable, _unseen(clusters, alpha)))


def share_bounds(
    items: int, clusters: int, correct: float, clustered_error: float, alpha: float = ALPHA
) -> tuple[float, float]:
    """One-sided bounds of a share: the wider of Wilson's and the clustered bounds.

    Wilson's are right for few items and for shares near 0 or 1, the clustered bounds for similar items. They also hold
    for a mean of scores between 0 and 1, which varies less than the share with the same value.
    """
    share, (low, high) = correct / items, wilson(items, correct, alpha)
    spread = t_quantile(clusters - 1, alpha) * max(clustered_error, 1 / (clusters + 2))
    return max(0.0, min(low, share - spread)), min(1.0, max(high, share + spread))


def wilson(items: int, correct: float, alpha: float = ALPHA) -> tuple[float, float]:
    """Wilson's one-sided bounds of a share of independent items."""
    share, z = correct / items, z_quantile(alpha)
    z2 = z**2
    centre = (share + z2 / (2 * items)) / (1 + z2 / items)
    half = z * math.sqrt(share * (1 - share) / items + z2 / (4 * items**2)) / (1 + z2 / items)
    return centre - half, centre + half


def z_quantile(alpha: float) -> float:
    """The value that a standard normal variable exceeds with a probability of `alpha`."""
    return -NormalDist().inv_cdf(alpha)


def reaches_floor(lower: float, minimum: float) -> bool:
    """Whether an accuracy with this lower bound reaches `minimum`. An accuracy that may be 0 never does."""
    return lower >= minimum and lower > 0


def least_items(suite: SuiteSpec, look: int = 1) -> int | None:
    """The smallest number of independent items with which the gate can pass at this look; None if none is enough.

    This is the number for the best possible result. retention: no item differs. target: every item is gained. floor:
    every item is right. With fewer items the gate is inconclusive for all answers.
    """
    counts = range(1, _MOST)
    position = bisect_left(counts, True, key=lambda items: _could_pass(suite, items, alpha_of(look)))
    return counts[position] if position < len(counts) else None


def bound_of(suite: SuiteSpec) -> float:
    """What the suite requires: the accepted loss, the gain or the minimum, by its kind."""
    match suite.kind:
        case "floor":
            return suite.minimum
        case "target":
            return suite.min_gain
        case "retention":
            return suite.delta
        case never:
            assert_never(never)


@dataclass(frozen=True)
class ItemsNeeded:
    """The numbers of independent items that a suite needs. None: no number, or it depends on the answers."""

    least: int | None  # to pass at all, with the best possible answers
    planned: int | None  # that an equal version passes in 80 %, for retention with scores of 0 and 1

    def enough(self, items: int | None) -> Literal["Yes", "Rarely", "No", "Unknown"]:
        """Whether so many items are enough. Rarely: an equal version passes, but in less than 80 %."""
        if items is None:
            return "Unknown"
        if self.least is None or items < self.least:
            return "No"
        if self.planned is None:
            return "Unknown"
        return "Yes" if items >= self.planned else "Rarely"


def items_needed(suite: SuiteSpec, look: int = 1, anchor_look: int | None = None) -> ItemsNeeded:
    """The items that a suite needs at this look; with an `anchor_look` also those for its totalDelta."""
    found = [(suite, look)]
    if anchor_look is not None and suite.total_delta is not None:
        found.append((suite.model_copy(update={"delta": suite.total_delta}), anchor_look))
    least = [least_items(each, number) for each, number in found]
    if suite.kind != "retention" or suite.metric.is_graded:
        return ItemsNeeded(_most(least), None)
    planned = [planned_items(each.delta, number) for each, number in found]
    return ItemsNeeded(_most(least), _most(planned))


def _most(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return max(known) if len(known) == len(numbers) else None


def planned_items(delta: float, look: int = 1, differing: float = DIFFERING) -> int | None:
    """The number of independent items with which an equal version passes a retention gate in 80 %.

    It answers the share `differing` of them differently: about half are gained and half are lost. None if no number is
    enough.
    """
    counts = range(2, _MOST)
    position = bisect_left(counts, True, key=lambda items: smallest_loss(items, look, differing) < delta)
    return counts[position] if position < len(counts) else None


def smallest_loss(items: int, look: int = 1, differing: float = DIFFERING) -> float:
    """The smallest delta with which an equal version passes a retention gate of so many independent items in 80 %."""
    spread = Z_POWER * math.sqrt(items * differing)  # that many more items than gained are lost in at most 20 %
    gained = max(0.0, (items * differing - spread) / 2)
    t = t_quantile(items - 1, alpha_of(look))
    return max(-_score_lower(items, gained, gained + spread, t), -_score_lower(items, 0.0, 0.0, t))


def _score_lower(items: float, gained: float, lost: float, t: float) -> float:
    """The smallest difference that the score test accepts. Counts may be fractions if items are similar."""
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
    """Tango's statistic for the hypothesis that the true difference is `difference`. It falls as `difference` rises."""
    distance = gained - lost - items * difference - _CONTINUITY
    linear = (2 * items - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    # Maximum likelihood estimate of the share of lost items under the hypothesis: the larger root of a quadratic.
    share = (math.sqrt(max(linear**2 - 8 * items * constant, 0.0)) - linear) / (4 * items)
    variance = items * (2 * share + difference * (1 - difference))
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def _unseen(items: int, alpha: float) -> float:
    """The share of items that may be lost wholly although none of `items` was: Clopper & Pearson 1934."""
    return 1 - math.pow(alpha, 1 / items)


def _graded_could_pass(suite: SuiteSpec, items: int, alpha: float) -> bool:
    unseen = _unseen(items, alpha)
    match suite.kind:
        case "floor":
            return reaches_floor(1 - unseen, suite.minimum)
        case "target":
            return 1 - 2 * unseen > suite.min_gain
        case "retention":
            return 1 - 2 * unseen > 0 if suite.delta == 0 else unseen < suite.delta
        case never:
            assert_never(never)


def _could_pass(suite: SuiteSpec, items: int, alpha: float) -> bool:
    if suite.metric.is_graded:
        return _graded_could_pass(suite, items, alpha)
    match suite.kind:
        case "floor":
            return reaches_floor(share_bounds(items, items, items, 0.0, alpha)[0], suite.minimum)
        case "target":
            return paired_difference(items, items, items, 0, 0.0, alpha).lower > suite.min_gain
        case "retention" if suite.delta == 0:  # only a better version can pass
            return paired_difference(items, items, items, 0, 0.0, alpha).lower > 0
        case "retention":
            return paired_difference(items, items, 0, 0, 0.0, alpha).excludes_loss(suite.delta)
        case never:
            assert_never(never)
