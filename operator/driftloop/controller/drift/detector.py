"""The e-detector: evidence that requests are no longer what they were, with a budget for false alarms. Pure.

Each signal's bins get scores, and each bet multiplies its evidence by 1 + l (score - tolerance) a request. While the
mean score is within the tolerance no bet can be expected to win. Evidence follows the Shiryaev-Roberts recursion
R <- (R + requests) * bet, and signals and bets are averaged. So E[R] never exceeds the requests seen, and by Doob's
inequality R reaches 72,000 / a within 72,000 requests with probability a at most, however often one looks.

Sources: e-detectors, Shin, Ramdas & Rinaldo 2023 (arXiv 2203.03532); bets on a bounded mean, Waudby-Smith & Ramdas
2024; normal scores, van der Waerden 1952.

Limits. The guarantee is for requests that come independently. Of a burst no bet wins more than a few requests' worth
(`pace`; a bet that wins less than it might keeps its guarantee), but a user who sends the same for hours is a shift of
the traffic, and is reported as one. A mean score doesn't see a spread that grows on both sides alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from statistics import NormalDist

from driftloop.contract.names import SIGNALS
from driftloop.controller.drift.pace import believed

FEEDBACK = "feedback"  # the fourth signal; its bins are good and bad ratings
WATCHED = (*SIGNALS, FEEDBACK)
MONTH = 72_000  # requests that the false-alarm budget is for
STANDARD_ERRORS = 2.33  # 99 %: how far a finite reference may be off
FRACTIONS = (0.15, 0.45, 0.9)  # of the largest stake that can't lose everything

_NORMAL = NormalDist()
_LOWEST = -50.0  # evidence below e^-50 is none


@dataclass(frozen=True)
class Counters:
    """What Prometheus counted of one version's requests between two looks."""

    until: datetime  # the end of the window; the next one begins here
    bins: Mapping[str, Sequence[float]]  # signal -> increments a bin; `feedback` is (good, bad)
    reference: Mapping[str, Sequence[float]] = field(default_factory=dict)  # signal -> the profile's masses
    reference_rows: float = 0.0  # rows behind them

    @property
    def requests(self) -> float:
        """Requests in the window: each is in one bin of every text signal."""
        return max((sum(usable(self.bins.get(signal))) for signal in SIGNALS), default=0.0)


@dataclass(frozen=True)
class Reference:
    """What is normal for one signal: shares of the bins, and the rows they were counted on."""

    rows: float
    masses: tuple[float, ...]


State = Mapping[str, Sequence[float]]  # signal -> ln R of each of its bets


def threshold(false_alarms_per_month: float) -> float:
    """ln R at which the alarm goes: a false one within a month has at most the given probability."""
    return math.log(MONTH / false_alarms_per_month) if false_alarms_per_month > 0 else math.inf


def update(
    state: State,
    bins: Mapping[str, Sequence[float]],
    references: Mapping[str, Reference],
    tolerance: float,
    cap: float,
    expected: float = math.inf,
) -> dict[str, tuple[float, ...]]:
    """The state after one window in which `expected` requests are usual.

    A signal without a reference, or whose increments are missing, negative or no numbers, stays as it was: what is
    not known is no evidence. Evidence is cut at `cap` (ln R), so that it can fall again when the traffic is back.
    """
    found = {signal: tuple(values) for signal, values in state.items()}
    for signal in WATCHED:
        reference, counts = references.get(signal), usable(bins.get(signal))
        if reference is None or sum(counts) <= 0 or len(counts) != len(reference.masses):
            continue
        tables = bets(signal, reference, tolerance)
        before = found.get(signal, ())
        if len(before) != len(tables):
            before = (-math.inf,) * len(tables)
        most = [believed(expected * mass) for mass in smoothed(reference)]
        found[signal] = tuple(_step(ln, table, counts, most, cap) for ln, table in zip(before, tables, strict=True))
    return found


def log_evidence(state: State) -> float:
    """ln of the mean of R over all signals and bets; those that say nothing count as 0."""
    return _log_mean([signal_evidence(state, signal) for signal in WATCHED])


def signal_evidence(state: State, signal: str) -> float:
    """ln of the mean of R over the bets of one signal; -inf when nothing is known of it."""
    return _log_mean(state.get(signal, ()))


@lru_cache(maxsize=256)  # a reference that has stopped growing is used at every look
def bets(signal: str, reference: Reference, tolerance: float) -> list[tuple[float, ...]]:
    """ln of the factor of each bin, a bet: up and down at each of FRACTIONS; of feedback, only more bad ratings.

    An empty list when the reference can't be betted on.
    """
    scores = normal_scores(reference)
    if scores is None:
        return []
    shift = allowed_shift(scores, reference, tolerance)
    tables = []
    for direction in (1.0,) if signal == FEEDBACK else (1.0, -1.0):
        gains = [direction * score - shift for score in scores]
        largest = -1 / min(gains)
        tables += [tuple(math.log1p(fraction * largest * gain) for gain in gains) for fraction in FRACTIONS]
    return tables


def normal_scores(reference: Reference) -> list[float] | None:
    """The mean of a standard normal over each bin's share, with mean 0 and variance 1 under the reference.

    The reference is smoothed by half a row a bin: what it has never seen is rare, not impossible.
    None with fewer than two bins or no rows.
    """
    masses = smoothed(reference)
    if len(masses) < 2 or reference.rows <= 0:
        return None
    scores, below, density = [], 0.0, 0.0
    for mass in masses:
        below = min(below + mass, 1.0)
        ahead = _NORMAL.pdf(_NORMAL.inv_cdf(below)) if below < 1 - 1e-12 else 0.0
        scores.append((density - ahead) / mass)
        density = ahead
    deviation = math.sqrt(sum(mass * score**2 for mass, score in zip(masses, scores, strict=True)))
    return [score / deviation for score in scores]


def allowed_shift(scores: Sequence[float], reference: Reference, tolerance: float) -> float:
    """The mean score that is no drift yet, in standard deviations.

    `tolerance` is a share: of a signal with two bins, the change of the second one's; of a normal one, the change of
    the share above the median (both are 2 tolerance / E|score|). It is never below what a finite reference leaves open.
    """
    masses = smoothed(reference)
    spread = sum(mass * abs(score) for mass, score in zip(masses, scores, strict=True))
    return max(2 * tolerance / spread, STANDARD_ERRORS / math.sqrt(reference.rows))


def smoothed(reference: Reference) -> list[float]:
    """Shares with half a row added to each bin."""
    rows = max(reference.rows, 0.0)
    counts = [max(mass, 0.0) * rows + 0.5 for mass in reference.masses]
    return [count / sum(counts) for count in counts]


def usable(counts: Sequence[float] | None) -> Sequence[float]:
    """The counts, or none at all if one of them is no count."""
    if counts is None or not all(math.isfinite(count) and count >= 0 for count in counts):
        return ()
    return counts


def _step(before: float, table: Sequence[float], counts: Sequence[float], most: Sequence[float], cap: float) -> float:
    # Every request could be the first after the change: as many new bets begin as there are requests, all of them
    # with the window's first one, since its order isn't known.
    after = _log_add(before, math.log(sum(counts)))
    for factor, count, limit in zip(table, counts, most, strict=True):
        after += factor * (min(count, limit) if factor > 0 else count)
    return min(max(after, _LOWEST), cap)


def _log_add(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return high + math.log1p(math.exp(low - high))


def _log_mean(values: Sequence[float]) -> float:
    high = max(values, default=-math.inf)
    if math.isinf(high):
        return -math.inf
    return high + math.log(sum(math.exp(value - high) for value in values) / len(values))
