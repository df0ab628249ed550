"""Is the candidate slower than stable? By the buckets of two histograms. Pure.

"The candidate's p95 is above stable's times the ratio" says that more than a twentieth of its answers take longer than
that. So the share that does is compared with stable's twentieth, by the bounds that hold at every look.
"""

import math

from driftloop.controller.kinds.inferenceservice.sequential import Answer, Tally, judge
from driftloop.controller.traffic import Buckets

_P95 = 0.95


def slower(stable: Buckets, candidate: Buckets, ratio: float) -> Answer:
    """`Worse` at 95 %; `NotWorse` while its p95 is within the ratio; `Unclear` when that may be chance, or unknown."""
    normal, found = p95(stable), p95(candidate)
    if normal is None or math.isinf(normal) or found is None:
        return "Unclear"
    limit = ratio * normal
    if found <= limit:
        return "NotWorse"
    late = Tally(_above(candidate, limit), observations(candidate))
    usual = Tally((1 - _P95) * observations(stable), observations(stable))
    return "Worse" if judge(usual, late, 0.0) == "Worse" else "Unclear"


def observations(buckets: Buckets) -> float:
    """How many answers were timed."""
    return max(buckets.values(), default=0.0)


def p95(buckets: Buckets) -> float | None:
    """In seconds; None without observations, inf when it is beyond the last bound."""
    return quantile(_P95, buckets)


def quantile(share: float, buckets: Buckets) -> float | None:
    """A quantile, linear within a bucket, as Prometheus has it.

    None without observations. Beyond the last bound it is inf: two arms there are not alike, but unknown.
    """
    ordered = sorted(buckets.items())
    total = ordered[-1][1] if ordered else 0.0
    if not (math.isfinite(total) and total > 0):
        return None
    wanted, lower, below = share * total, 0.0, 0.0
    for upper, count in ordered:
        if count >= wanted:
            return lower + (upper - lower) * (wanted - below) / (count - below) if count > below else upper
        lower, below = upper, count
    return lower


def _above(buckets: Buckets, seconds: float) -> float:
    """Observations above `seconds`, linear within a bucket. What is beyond the last bound is."""
    total, lower, below = observations(buckets), 0.0, 0.0
    for upper, count in sorted(buckets.items()):
        if seconds < upper:
            share = 0.0 if math.isinf(upper) else (seconds - lower) / (upper - lower)
            return total - below - share * (count - below)
        lower, below = upper, count
    return 0.0
