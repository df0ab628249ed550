"""How much more often the candidate's requests are bad than stable's, at 95 %, however often one looks. Pure.

Each arm's requests are bad with a probability of its own, p of stable's and q of the candidate's. By Robbins' method
of mixtures the likelihood of all that was counted, averaged over a prior that is fixed beforehand, is compared with
the greatest likelihood that any (p, q) with a difference of d has. For the true d the quotient ever exceeds 20 with a
probability of 5 % at most, whenever one looks, and however the requests are spread over the arms: it is at most the
quotient with the true (p, q) below, a martingale that starts at 1 (Ville's inequality). So the differences with a
quotient below 20 are a confidence sequence, and its ends may be compared with the margin at every look.

It needs the counts alone: nothing is remembered between two looks, so a lost status changes no verdict.

Sources: Robbins, Ann. Math. Stat. 41(5), 1970; Wasserman, Ramdas & Balakrishnan, Universal inference, PNAS 117(29),
2020. Requests are taken to be independent: a minute of an engine's trouble counts like as many single failures.
"""

import math
from dataclasses import dataclass
from typing import Literal

Answer = Literal["Worse", "NotWorse", "Unclear"]
LEVEL = 0.95
_LOG_ODDS = -math.log(1 - LEVEL)  # ln 20
# The prior. A good candidate fails as seldom as stable does, so most of the bet is on that, and a third on no failure
# at all; a broken one fails at any rate beside a good stable one.
_NO_FAILURE, _ALIKE, _ALIKE_OFTEN, _BROKEN, _ANYHOW = 0.3, 0.5, 0.05, 0.1, 0.05
_FLAT = 1.0  # the scale of Jeffreys' prior, Beta(1/2, 1/2)
_STEPS = 40  # of a bisection: an error below 1e-11
_MOST_TIMES = 100.0  # further ahead than this many times what was counted nobody can say


@dataclass(frozen=True)
class Tally:
    """Bad ones of all, of one arm. Counts may be fractions, as a histogram's buckets give them."""

    bad: float
    total: float


@dataclass(frozen=True)
class Bounds:
    """The difference of the shares, candidate less stable, lies between these."""

    lower: float
    upper: float


def judge(stable: Tally, candidate: Tally, margin: float) -> Answer:
    """Is the candidate's share above stable's by more than the margin? At 95 %: on which side of it both bounds lie."""
    if min(stable.total, candidate.total) <= 0 or not _decided(stable, candidate, margin):
        return "Unclear"
    return "NotWorse" if candidate.bad / candidate.total - stable.bad / stable.total < margin else "Worse"


def bounds(stable: Tally, candidate: Tally, scale: float) -> Bounds:
    """The ends of the 95 % confidence sequence; (-1, 1) when an arm has no requests.

    `scale`: about the share that is bad in a good service, such as the margin. It shapes the prior: the bounds hold
    with any, and are narrow soonest with a fair one.
    """
    if stable.total <= 0 or candidate.total <= 0:
        return Bounds(-1.0, 1.0)
    least = _log_mixture(stable, candidate, scale) - _LOG_ODDS
    middle = candidate.bad / candidate.total - stable.bad / stable.total
    return Bounds(_end(stable, candidate, least, middle, -1.0), _end(stable, candidate, least, middle, 1.0))


def needed(stable: Tally, candidate: Tally, margin: float) -> int | None:
    """About how many more requests the quieter arm needs until a bound passes the margin, if all goes on as it did.

    None when no number that is worth saying will do: the difference is too near to the margin.
    """
    fewest = min(stable.total, candidate.total)
    if fewest <= 0:
        return None
    times = 1.0
    while times < _MOST_TIMES:
        times *= 1.1
        if _decided(_grown(stable, times), _grown(candidate, times), margin):
            return _rounded((times - 1) * fewest)
    return None


def _grown(arm: Tally, times: float) -> Tally:
    return Tally(arm.bad * times, arm.total * times)


def _decided(stable: Tally, candidate: Tally, margin: float) -> bool:
    return _log_profile(stable, candidate, margin) < _log_mixture(stable, candidate, margin) - _LOG_ODDS


def _end(stable: Tally, candidate: Tally, least: float, inside: float, outside: float) -> float:
    """The last difference from `inside` towards `outside` whose profile likelihood is `least`: it falls on the way."""
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if _log_profile(stable, candidate, middle) >= least:
            inside = middle
        else:
            outside = middle
    return outside


def _log_profile(stable: Tally, candidate: Tally, difference: float) -> float:
    """The greatest log likelihood with q = p + difference. It is concave in p: its slope falls."""
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
        (_ALIKE, _log_mean(both, scale)),
        (_ALIKE_OFTEN, _log_mean(both, _FLAT)),
        (_BROKEN, _log_mean(stable, scale) + _log_mean(candidate, _FLAT)),
        (_ANYHOW, _log_mean(stable, _FLAT) + _log_mean(candidate, _FLAT)),
    ]
    high = max(part for _, part in parts)
    return high + math.log(sum(weight * math.exp(part - high) for weight, part in parts))


def _log_mean(arm: Tally, scale: float) -> float:
    """ln of the mean likelihood under Beta(1/2, 1/(2 scale)), whose mean is about the scale."""
    a, b = 0.5, 0.5 / max(scale, 1e-3)
    return _log_beta(a + arm.bad, b + arm.total - arm.bad) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _rounded(count: float) -> int:
    """Up to one figure and a half: what is extrapolated has no more."""
    step: float = 10 ** max(0, math.floor(math.log10(max(count, 1.0))) - 1) * 5
    return int(math.ceil(count / step) * step)
