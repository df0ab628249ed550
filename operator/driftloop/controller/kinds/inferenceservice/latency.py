"""Whether the candidate is slower than stable, from the buckets of two histograms. Pure.

If the candidate's p95 is above the limit (stable's p95 times the ratio), more than 5 % of its answers take longer than
the limit. So the share of its answers above the limit is compared with 5 %, by the bounds that hold at every check.
"""

import math

from driftloop.controller.kinds.inferenceservice.sequential import Answer, Tally, judge
from driftloop.controller.traffic import Buckets

_P95 = 0.95


def slower(stable: Buckets, candidate: Buckets, ratio: float) -> Answer:
    """Whether the candidate's p95 is above `ratio` times stable's.

    `Worse` if that is certain at 95 %; `NotWorse` if its p95 is within the ratio; `Unclear` if a difference may be
    chance, or a p95 is unknown.
    """
    old, new = p95(stable), p95(candidate)
    if old is None or math.isinf(old) or new is None:
        return "Unclear"
    limit = ratio * old
    if new <= limit:
        return "NotWorse"
    slow_candidate = Tally(_above(candidate, limit), observations(candidate))
    slow_stable = Tally((1 - _P95) * observations(stable), observations(stable))
    return "Worse" if judge(slow_stable, slow_candidate, 0.0) == "Worse" else "Unclear"


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
