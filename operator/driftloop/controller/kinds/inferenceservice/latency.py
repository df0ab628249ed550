"""How many answers are slow, from the buckets of two histograms. Pure.

If the candidate's p95 is above the limit (stable's p95 times the ratio), more than 5 % of its answers take longer than
the limit. So the share of its answers above the limit is compared with 5 %, as shares of failures are compared.
"""

import math
from dataclasses import dataclass

from driftloop.controller.kinds.inferenceservice.sequential import Tally
from driftloop.controller.traffic import Buckets

_P95 = 0.95


@dataclass(frozen=True)
class SlowAnswers:
    """Slow and all answers of each arm. 5 % of stable's answers count as slow: as many are above its p95."""

    limit: float  # seconds; slower answers of the candidate are slow
    stable: Tally
    candidate: Tally


def slow_answers(stable: Buckets, candidate: Buckets, ratio: float) -> SlowAnswers | None:
    """Answers of the candidate above `ratio` times stable's p95; None if that p95 is unknown, or it has no answers."""
    normal = p95(stable)
    if normal is None or math.isinf(normal) or observations(candidate) <= 0:
        return None
    limit = ratio * normal
    return SlowAnswers(
        limit,
        Tally((1 - _P95) * observations(stable), observations(stable)),
        Tally(_above(candidate, limit), observations(candidate)),
    )


def observations(buckets: Buckets) -> float:
    """The number of answers in a histogram."""
    return max(buckets.values(), default=0.0)


def p95(buckets: Buckets) -> float | None:
    """The 95th percentile in seconds; None without observations, inf above the largest finite bucket."""
    return quantile(_P95, buckets)


def quantile(share: float, buckets: Buckets) -> float | None:
    """A quantile, interpolated linearly within a bucket as in Prometheus; None without observations.

    Above the largest finite bucket it is inf (Prometheus returns the last bound), because there it is unknown.
    """
    ordered = sorted(buckets.items())
    total = ordered[-1][1] if ordered else 0.0
    if not (math.isfinite(total) and total > 0):
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for upper, count in ordered:
        if count >= rank:
            return lower + (upper - lower) * (rank - below) / (count - below) if count > below else upper
        lower, below = upper, count
    return lower


def _above(buckets: Buckets, seconds: float) -> float:
    """The number of observations above `seconds`, interpolated linearly within a bucket.

    All observations in the infinite bucket count as above.
    """
    total, lower, below = observations(buckets), 0.0, 0.0
    for upper, count in sorted(buckets.items()):
        if seconds < upper:
            share = 0.0 if math.isinf(upper) else (seconds - lower) / (upper - lower)
            return total - below - share * (count - below)
        lower, below = upper, count
    return 0.0
