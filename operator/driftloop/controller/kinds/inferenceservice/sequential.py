"""Bounds on the difference of two shares of bad requests, at 95 %, however often they are checked. Pure.

A request is bad with probability p on stable and q on the candidate. By Robbins' method of mixtures, the likelihood of
the counts, averaged over a prior that is fixed beforehand, is divided by the greatest likelihood that any (p, q) with
q - p = d has. For the true d, this quotient ever exceeds 20 with a probability of at most 5 %, at whatever times it is
checked and however the requests are spread over the arms: it is at most the quotient for the true (p, q), which is a
martingale that starts at 1 (Ville's inequality). So the differences with a quotient below 20 form a confidence
sequence, and its ends may be compared with the margin at every check.

Only the current counts are needed: nothing is stored between two checks, so a lost status changes no verdict.

Sources: Robbins, Ann. Math. Stat. 41(5), 1970; Wasserman, Ramdas & Balakrishnan, Universal inference, PNAS 117(29),
2020. Limit: requests are assumed to be independent, so the failures of one short outage count as independent failures.
"""

import math
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["Worse", "NotWorse", "Unclear"]
ERROR = 0.05
# Weights of the prior. A good candidate fails as rarely as stable, so most weight is on equal rates, and almost a third
# on no failures at all. A broken candidate may fail at any rate beside a good stable version.
_NO_FAILURE, _EQUAL_RARE, _EQUAL_ANY, _BROKEN, _INDEPENDENT = 0.3, 0.5, 0.05, 0.1, 0.05
_FLAT = 1.0  # scale of Jeffreys' prior, Beta(1/2, 1/2)
_STEPS = 40  # steps of a bisection, for an error below 1e-11
_MAX_GROWTH = 100.0  # no estimate beyond this many times the current counts


@dataclass(frozen=True)
class Tally:
    """The bad requests and all requests of one arm. Counts from a histogram may be fractions."""

    bad: float
    total: float


@dataclass(frozen=True)
class Bounds:
    """Bounds on the difference of the shares, candidate minus stable."""

    lower: float
    upper: float


def judge(stable: Tally, candidate: Tally, margin: float, alarm: float = ERROR) -> Verdict:
    """Whether the candidate's share is more than the margin above stable's: both bounds are on one side.

    NotWorse is wrong with a probability of at most 5 %, and Worse with at most `alarm`.
    """
    if min(stable.total, candidate.total) <= 0:
        return "Unclear"
    is_below = candidate.bad / candidate.total - stable.bad / stable.total < margin
    if not _decided(stable, candidate, margin, ERROR if is_below else alarm):
        return "Unclear"
    return "NotWorse" if is_below else "Worse"


def bounds(stable: Tally, candidate: Tally, scale: float, alarm: float = ERROR) -> Bounds:
    """The ends of the confidence sequence; (-1, 1) when an arm has no requests.

    The upper end is ever wrong with a probability of at most 5 %, the lower end with at most `alarm`.

    `scale` is roughly the share of bad requests in a good service, such as the margin. It shapes the prior: the bounds
    hold with any value, but become narrow sooner with a realistic one.
    """
    if stable.total <= 0 or candidate.total <= 0:
        return Bounds(-1.0, 1.0)
    mixture = _log_mixture(stable, candidate, scale)
    middle = candidate.bad / candidate.total - stable.bad / stable.total
    return Bounds(
        _end(stable, candidate, mixture + math.log(alarm), middle, -1.0),
        _end(stable, candidate, mixture + math.log(ERROR), middle, 1.0),
    )


def needed(stable: Tally, candidate: Tally, margin: float, alarm: float = ERROR) -> int | None:
    """About how many more requests the quieter arm needs for an answer, if the shares stay as they are.

    None when the difference is so close to the margin that the number would be very large.
    """
    fewest = min(stable.total, candidate.total)
    if fewest <= 0:
        return None
    growth = 1.0
    while growth < _MAX_GROWTH:
        growth *= 1.1
        if judge(_scaled(stable, growth), _scaled(candidate, growth), margin, alarm) != "Unclear":
            return _rounded((growth - 1) * fewest)
    return None


def _scaled(arm: Tally, factor: float) -> Tally:
    return Tally(arm.bad * factor, arm.total * factor)


def _decided(stable: Tally, candidate: Tally, margin: float, error: float) -> bool:
    return _log_profile(stable, candidate, margin) < _log_mixture(stable, candidate, margin) + math.log(error)


def _end(stable: Tally, candidate: Tally, least: float, inside: float, outside: float) -> float:
    """The difference between `inside` and `outside` at which the profile likelihood falls below `least`."""
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if _log_profile(stable, candidate, middle) >= least:
            inside = middle
        else:
            outside = middle
    return outside


def _log_profile(stable: Tally, candidate: Tally, difference: float) -> float:
    """The greatest log likelihood with q = p + difference. It is concave in p, so a bisection on its slope finds it."""
    low, high = max(0.0, -difference), min(1.0, 1 - difference)
    for _ in range(_STEPS):
        p = (low + high) / 2
        if _slope(stable, p) + _slope(candidate, p + difference) > 0:
            low = p
        else:
            high = p
    p = (low + high) / 2
    return _log_likelihood(stable, p) + _log_likelihood(candidate, p + difference)


def _slope(arm: Tally, p: float) -> float:
    good = arm.total - arm.bad
    return (arm.bad / p if p > 0 else math.inf if arm.bad else 0.0) - (
        good / (1 - p) if p < 1 else math.inf if good else 0.0
    )


def _log_likelihood(arm: Tally, p: float) -> float:
    return _times_log(arm.bad, p) + _times_log(arm.total - arm.bad, 1 - p)


def _times_log(count: float, share: float) -> float:
    if count <= 0:
        return 0.0
    return count * math.log(share) if share > 0 else -math.inf


def _log_mixture(stable: Tally, candidate: Tally, scale: float) -> float:
    """ln of the likelihood, averaged over the prior."""
    both = Tally(stable.bad + candidate.bad, stable.total + candidate.total)
    parts = [
        (_NO_FAILURE, 0.0 if both.bad <= 0 else -math.inf),
        (_EQUAL_RARE, _log_mean(both, scale)),
        (_EQUAL_ANY, _log_mean(both, _FLAT)),
        (_BROKEN, _log_mean(stable, scale) + _log_mean(candidate, _FLAT)),
        (_INDEPENDENT, _log_mean(stable, _FLAT) + _log_mean(candidate, _FLAT)),
    ]
    high = max(part for _, part in parts)
    return high + math.log(sum(weight * math.exp(part - high) for weight, part in parts))


def _log_mean(arm: Tally, scale: float) -> float:
    """ln of the mean likelihood under Beta(1/2, 1/(2 scale)), whose mean is approximately `scale`."""
    a, b = 0.5, 0.5 / max(scale, 1e-3)
    return _log_beta(a + arm.bad, b + arm.total - arm.bad) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _rounded(count: float) -> int:
    """Round up to a multiple of 5 in the second digit, because an estimate is not more precise than that."""
    step: float = 10 ** max(0, math.floor(math.log10(max(count, 1.0))) - 1) * 5
    return int(math.ceil(count / step) * step)
