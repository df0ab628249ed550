"""Bounds on how much more often the candidate is worse than stable, in pairs of answers to the same requests. Pure.

In a pair the candidate is worse, or stable is, or neither. With the probabilities p and q of the first two, the bounds
are for p - q. The method is that of `sequential.py`, for three outcomes instead of two arms: the likelihood, averaged
over a prior that is fixed beforehand, is divided by the greatest likelihood of any (p, q) with p - q = d. For the true
d this quotient ever exceeds 1/error with a probability of at most `error`, however often it is checked (Ville's
inequality). Pairs are assumed to be independent; the two answers of a pair need not be.
"""

import math

from driftloop.controller.kinds.inferenceservice.sequential import ERROR, Bounds, Verdict
from driftloop.controller.traffic import Pairs

_STEPS = 40  # steps of a bisection
# Weights of the prior: no pair differs; few pairs do, alike on both sides; any number does; the candidate is broken.
_NONE, _FEW, _ANY, _BROKEN = 0.3, 0.3, 0.3, 0.1
_RARE = 0.02  # share of pairs that differ in a good service, roughly


def judge_pairs(pairs: Pairs, margin: float, alarm: float = ERROR) -> Verdict:
    """Whether the difference is above the margin.

    NotWorse is wrong with a probability of at most 5 %, and Worse with at most `alarm`.
    """
    if pairs.total <= 0:
        return "Unclear"
    is_below = pairs.difference < margin
    if _log_profile(pairs, margin) >= _log_mixture(pairs) + math.log(ERROR if is_below else alarm):
        return "Unclear"
    return "NotWorse" if is_below else "Worse"


def bounds_of_pairs(pairs: Pairs, alarm: float = ERROR) -> Bounds:
    """The ends of the confidence sequence for the difference; (-1, 1) without pairs."""
    if pairs.total <= 0:
        return Bounds(-1.0, 1.0)
    mixture, middle = _log_mixture(pairs), pairs.difference
    return Bounds(
        _end(pairs, mixture + math.log(alarm), middle, -1.0), _end(pairs, mixture + math.log(ERROR), middle, 1.0)
    )


def _end(pairs: Pairs, least: float, inside: float, outside: float) -> float:
    """The difference between `inside` and `outside` at which the profile likelihood falls below `least`."""
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if _log_profile(pairs, middle) >= least:
            inside = middle
        else:
            outside = middle
    return outside


def _log_profile(pairs: Pairs, difference: float) -> float:
    """The greatest log likelihood with p = q + difference. It is concave in q, so a bisection on its slope finds it."""
    low, high = max(0.0, -difference), (1 - difference) / 2
    for _ in range(_STEPS):
        q = (low + high) / 2
        if _slope(pairs, q + difference, q) > 0:
            low = q
        else:
            high = q
    q = (low + high) / 2
    p = q + difference
    return _times_log(pairs.candidate, p) + _times_log(pairs.stable, q) + _times_log(pairs.neither, 1 - p - q)


def _slope(pairs: Pairs, p: float, q: float) -> float:
    return _over(pairs.candidate, p) + _over(pairs.stable, q) - 2 * _over(pairs.neither, 1 - p - q)


def _over(count: float, share: float) -> float:
    if count <= 0:
        return 0.0
    return count / share if share > 0 else math.inf


def _times_log(count: float, share: float) -> float:
    if count <= 0:
        return 0.0
    return count * math.log(share) if share > 0 else -math.inf


def _log_mixture(pairs: Pairs) -> float:
    """ln of the likelihood, averaged over the prior."""
    parts = [
        (_NONE, 0.0 if pairs.candidate + pairs.stable <= 0 else -math.inf),
        (_FEW, _log_mean(pairs, 0.5, 0.5, 1 / _RARE)),
        (_ANY, _log_mean(pairs, 0.5, 0.5, 0.5)),
        (_BROKEN, _log_mean(pairs, 1.0, 0.5, 0.5)),
    ]
    high = max(part for _, part in parts)
    return high + math.log(sum(weight * math.exp(part - high) for weight, part in parts))


def _log_mean(pairs: Pairs, candidate: float, stable: float, neither: float) -> float:
    """ln of the mean likelihood under a Dirichlet prior with these parameters."""
    prior = (candidate, stable, neither)
    counts = (pairs.candidate, pairs.stable, pairs.neither)
    return (
        math.lgamma(sum(prior))
        - math.lgamma(sum(prior) + pairs.total)
        + sum(math.lgamma(a + n) - math.lgamma(a) for a, n in zip(prior, counts, strict=True))
    )
