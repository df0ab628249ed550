"""A confidence bound of the mean of bounded scores, for few items and for scores of any distribution. Pure.

An interval for shares needs scores of 0 and 1. Student's t needs a normal mean: if a version loses a few items wholly
and few items are asked, it passes far more than 5 % of the losses that it should refuse.

The bound is the one of Gaffke 2005 and of Learned-Miller & Thomas 2020 ("A New Confidence Interval for the Mean of a
Bounded Random Variable", arXiv 1905.06208). The scores get random weights, drawn uniformly from all that add up to
one, together with one more score: the least that is possible. The bound is the `alpha` quantile of the weighted mean.
For scores of 0 and 1 it is Clopper and Pearson's, and for many items it comes close to that of Student's t. That it
holds for every distribution is a conjecture that nobody has refuted; bench/score_errors.py measures it.

Items of one cluster share a weight, and the additional score counts as a cluster of typical size.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from driftloop.contract.looks import ALPHA

Array = NDArray[np.float64]

_STEP = 1e-5  # how far the bound may be below the exact one
_HALVINGS = 25  # steps of the bisection for a saddle point, which need not be exact
_FAR = 12.0  # the integrand is below 1e-10 from here, also for two scores
_GRID = np.arange(0.0, _FAR, 0.1)
_CELLS = 50_000  # numbers in memory at a time


def lower_bound(values: Sequence[float], clusters: Sequence[str], least: float, alpha: float = ALPHA) -> float:
    """The one-sided lower bound of the mean of `values`, none of which can be below `least`.

    `alpha` is the probability with which it may be wrong.
    """
    sample = Sample.of(values, clusters)
    low, high = least, sample.mean
    while high - low > _STEP:
        middle = (low + high) / 2
        if sample.shows_above(middle, least, alpha):
            low = middle
        else:
            high = middle
    return low


def upper_bound(values: Sequence[float], clusters: Sequence[str], most: float, alpha: float = ALPHA) -> float:
    """The one-sided upper bound of the mean of `values`, none of which can be above `most`."""
    return -lower_bound([-value for value in values], clusters, -most, alpha)


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


@dataclass(frozen=True)
class Sample:
    """The scores of a suite: sum and size of each kind of cluster, and the number of clusters of this kind."""

    sums: Array
    sizes: Array
    counts: Array

    @classmethod
    def of(cls, values: Sequence[float], clusters: Sequence[str]) -> Self:
        """The sample of scores. Those of the same cluster are not independent."""
        _, position = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
        sums = np.bincount(position, weights=np.asarray(values, dtype=np.float64))
        kinds, counts = np.unique(np.stack([sums, np.bincount(position)]), axis=1, return_counts=True)
        return cls(kinds[0], kinds[1], counts.astype(np.float64))

    @property
    def mean(self) -> float:
        """The mean of all scores."""
        return float(np.sum(self.counts * self.sums) / np.sum(self.counts * self.sizes))

    def shows_above(self, value: float, least: float, alpha: float = ALPHA) -> bool:
        """Whether the true mean is above `value`, if no score can be below `least`; wrong with at most `alpha`."""
        typical = float(np.sum(self.counts * self.sizes**2) / np.sum(self.counts * self.sizes))
        distances = np.append(self.sums - value * self.sizes, (least - value) * typical)
        return _below_zero(distances, np.append(self.counts, 1.0)) <= alpha


def _below_zero(values: Array, counts: Array) -> float:
    """The probability that the sum of `values`, each times an exponential variable, is at most 0; 1 if it is not small.

    It is the integral of exp(K(s)) / s along the vertical line through the saddle point of K, the logarithm of the
    moment generating function (Daniels 1954). There the integrand hardly oscillates, so the trapezoidal rule is exact.
    """
    if float(np.sum(counts * values)) <= 0:
        return 1.0  # such a sum is at most 0 with a probability of at least 1/e
    if float(np.min(values)) >= 0:
        return 0.0
    saddle = _saddle(values, counts)
    slopes = 1 - saddle * values
    height = -float(np.sum(counts * np.log(slopes)))
    width = 1 / math.sqrt(float(np.sum(counts * (values / slopes) ** 2)))
    if -saddle < width / 2:
        return 1.0  # zero is about half a standard deviation from the mean
    total = 0.0
    for start in range(0, len(_GRID), size := max(1, _CELLS // len(values))):
        u = _GRID[start : start + size]
        y = width * np.sinh(u)
        ratios = np.outer(y, values / slopes)
        exponent = height - 0.5 * np.log1p(ratios**2) @ counts + 1j * (np.arctan(ratios) @ counts)
        terms = np.real(-np.exp(exponent) / (saddle + 1j * y)) * width * np.cosh(u)
        total += float(np.sum(terms)) - (float(terms[0]) / 2 if start == 0 else 0.0)
    return total * float(_GRID[1]) / math.pi


def _saddle(values: Array, counts: Array) -> float:
    """A negative s at which the derivative of K is about 0."""
    low, high = 1 / float(np.min(values)), 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(np.sum(counts * values / (1 - middle * values))) > 0:
            high = middle
        else:
            low = middle
    return high
