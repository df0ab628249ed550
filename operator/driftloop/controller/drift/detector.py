"""The e-detector: evidence that the requests have changed, with a budget for false alarms. Pure.

Each bin of a signal has a score. Per independent request, each bet multiplies its evidence by
1 + l (score - expected score - tolerance). While the mean score is within the tolerance, no bet is expected to win.
Evidence follows the Shiryaev-Roberts recursion R <- (R + started) * bet, averaged over signals and bets. At most one
bet is started per minute (`start_weight`). So E[R] never exceeds the number of minutes, and by Doob's inequality R
reaches 43,200 / a within 30 days with probability at most a, however often it is checked, at any rate of requests.

Requests of one user or session are not independent. If the mean of n requests varies like that of n/d independent ones
(`normal`), then the logarithm of the bet is divided by d. While scores are nearly normal, this keeps the mean factor of
a bet at 1 or below. Single bursts are not nearly normal. From a burst a bet wins only as much as from a few requests
(`pace`; a bet that wins less than it could keeps its guarantee), and an alarm needs evidence that lasts (`watch`).

Sources: e-detectors, Shin, Ramdas & Rinaldo 2023 (arXiv 2203.03532); bets on a bounded mean, Waudby-Smith & Ramdas
2024; normal scores, van der Waerden 1952; design effect, Kish 1965.

Limits. A user who sends unusual requests for hours shifts the traffic, and this is reported as drift. A mean score does
not change when the spread grows equally on both sides.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from statistics import NormalDist

from driftloop.contract.names import ANSWER_SIGNALS, SIGNALS, TEXT_SIGNALS, UNANSWERED
from driftloop.controller.drift.pace import independent_limit

FEEDBACK = "feedback"  # its bins are good and bad ratings
WATCHED = (*TEXT_SIGNALS, *ANSWER_SIGNALS, FEEDBACK)
ALWAYS = (*SIGNALS, FEEDBACK)  # the others are not of every version and service
_RISES = (UNANSWERED, FEEDBACK)  # where only a rise is drift
MONTH = 30 * 24 * 60  # minutes to which the false-alarm budget applies
STANDARD_ERRORS = 2.33  # 99 %: allowed error of a finite reference
FRACTIONS = (0.15, 0.45, 0.9)  # stakes, as shares of the largest stake that can't lose everything

_NORMAL = NormalDist()
_LOWEST = -50.0  # lower limit of ln R: less evidence makes no difference


@dataclass(frozen=True)
class Counters:
    """The requests of one version that Prometheus counted between two checks."""

    until: datetime  # the end of the window; the next window begins here
    bins: Mapping[str, Sequence[float]]  # signal -> increments per bin; `feedback` is (good, bad)
    reference: Mapping[str, Sequence[float]] = field(default_factory=dict)  # signal -> bin shares of the profile
    reference_rows: float = 0.0  # rows from which the profile was made

    @property
    def requests(self) -> float:
        """Requests in the window. Each request is in one bin of every text signal."""
        return max((sum(usable(self.bins.get(signal))) for signal in SIGNALS), default=0.0)


@dataclass(frozen=True)
class Reference:
    """What is normal for one signal: the share of each bin, and the number of rows from which they were counted.

    Means are in standard deviations of a request. `error` is the standard error of `mean`; None: of independent rows.
    """

    rows: float
    masses: tuple[float, ...]
    mean: float = 0.0  # expected mean score at this time
    error: float | None = None
    together: float = 1.0  # requests that count as one independent request


@dataclass(frozen=True)
class Window:
    """How much a window's requests may tell. The defaults set no limits."""

    expected: float = math.inf  # requests that are usual in it
    start_weight: float = 1.0  # bets that are started per request


State = Mapping[str, Sequence[float]]  # signal -> ln R of each bet


def threshold(false_alarms_per_month: float) -> float:
    """ln R at which the alarm is raised, so that a false alarm within a month has at most the given probability."""
    return math.log(MONTH / false_alarms_per_month) if false_alarms_per_month > 0 else math.inf


def update(
    state: State,
    bins: Mapping[str, Sequence[float]],
    references: Mapping[str, Reference],
    tolerance: float,
    cap: float,
    window: Window = Window(),
) -> dict[str, tuple[float, ...]]:
    """The state after one window.

    A signal keeps its evidence if it has no reference, or if its increments are missing, negative or not finite:
    missing data is not evidence. Evidence is limited to `cap` (ln R), so that it can fall when the traffic is normal
    again.
    """
    updated = {signal: tuple(values) for signal, values in state.items()}
    for signal in WATCHED:
        reference, counts = references.get(signal), usable(bins.get(signal))
        if reference is None or sum(counts) <= 0 or len(counts) != len(reference.masses):
            continue
        tables = bets(signal, reference, tolerance)
        before = updated.get(signal, ())
        if len(before) != len(tables):
            before = (-math.inf,) * len(tables)
        most = [independent_limit(window.expected * mass) for mass in smoothed(reference)]
        started = math.log(sum(counts) * window.start_weight)
        updated[signal] = tuple(
            step(_log_add(ln, started), gain(table, counts, most), cap)
            for ln, table in zip(before, tables, strict=True)
        )
    return updated


def log_evidence(state: State) -> float:
    """ln of the mean of R over all signals and bets; a signal without evidence counts as 0.

    Signals that a version does not have, or that its service does not watch, take no part. When one comes, its evidence
    begins and the share of the others falls, so the mean still expects no more than the minutes that have passed.
    """
    return _log_mean([signal_evidence(state, signal) for signal in averaged(state)])


def averaged(state: Collection[str]) -> list[str]:
    """The signals whose mean is the evidence."""
    return [signal for signal in WATCHED if signal in ALWAYS or signal in state]


def signal_evidence(state: State, signal: str) -> float:
    """ln of the mean of R over the bets of one signal; -inf without evidence."""
    return _log_mean(state.get(signal, ()))


def start_weight(requests_per_second: float) -> float:
    """Bets that are started per request: one, but not more than one per minute."""
    return min(1.0, 1 / (60 * requests_per_second)) if requests_per_second > 0 else 1.0


@lru_cache(maxsize=256)  # a reference that no longer grows is used at every check
def bets(signal: str, reference: Reference, tolerance: float) -> list[tuple[float, ...]]:
    """The bets on a signal, each as ln of its factor per request of a bin: on a rise and a fall, at each of FRACTIONS.

    On ratings and refusals there are only bets on more bad ones. Empty when the reference has no scores.
    """
    scores = normal_scores(reference)
    if scores is None:
        return []
    shift = allowed_shift(scores, reference, tolerance)
    tables = []
    for direction in (1.0,) if signal in _RISES else (1.0, -1.0):
        gains = [direction * (score - reference.mean) - shift for score in scores]
        largest = -1 / min(gains)
        for fraction in FRACTIONS:
            tables.append(tuple(math.log1p(fraction * largest * gain) / reference.together for gain in gains))
    return tables


def normal_scores(reference: Reference) -> list[float] | None:
    """The score per bin: the mean of a standard normal over its share, with mean 0 and variance 1 in the reference.

    The reference is smoothed by half a row per bin: what it does not contain is rare, not impossible.
    None with fewer than two bins, or without rows.
    """
    masses = smoothed(reference)
    return _normal_scores(tuple(masses)) if len(masses) >= 2 and reference.rows > 0 else None


@lru_cache(maxsize=256)
def _normal_scores(masses: tuple[float, ...]) -> list[float]:
    scores, below, density = [], 0.0, 0.0
    for mass in masses:
        below = min(below + mass, 1.0)
        ahead = _NORMAL.pdf(_NORMAL.inv_cdf(below)) if below < 1 - 1e-12 else 0.0
        scores.append((density - ahead) / mass)
        density = ahead
    deviation = math.sqrt(sum(mass * score**2 for mass, score in zip(masses, scores, strict=True)))
    return [score / deviation for score in scores]


def allowed_shift(scores: Sequence[float], reference: Reference, tolerance: float) -> float:
    """The largest mean score that does not count as drift, in standard deviations.

    `tolerance` is the change of a share: with two bins, the share of the second bin; with a normal distribution, the
    share above the median (both are 2 tolerance / E|score|). It is never below the error of a finite reference.
    """
    masses = smoothed(reference)
    spread = sum(mass * abs(score) for mass, score in zip(masses, scores, strict=True))
    error = 1 / math.sqrt(reference.rows) if reference.error is None else reference.error
    return max(2 * tolerance / spread, STANDARD_ERRORS * error)


def smoothed(reference: Reference) -> list[float]:
    """The share of each bin after half a row was added to it."""
    rows = max(reference.rows, 0.0)
    counts = [max(mass, 0.0) * rows + 0.5 for mass in reference.masses]
    return [count / sum(counts) for count in counts]


def usable(counts: Sequence[float] | None) -> Sequence[float]:
    """The counts; empty if one of them is negative or not finite."""
    if counts is None or not all(math.isfinite(count) and count >= 0 for count in counts):
        return ()
    return counts


def gain(table: Sequence[float], counts: Sequence[float], most: Sequence[float]) -> float:
    """How much ln R of a bet rises by a window."""
    limited = zip(table, counts, most, strict=True)
    return sum(factor * (min(count, limit) if factor > 0 else count) for factor, count, limit in limited)


def step(started: float, gained: float, cap: float) -> float:
    """ln R after a window. Bets on every request begin with the first one, because their order is unknown."""
    return min(max(started + gained, _LOWEST), cap)


def _log_add(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return high + math.log1p(math.exp(low - high))


def _log_mean(values: Sequence[float]) -> float:
    high = max(values, default=-math.inf)
    if math.isinf(high):
        return -math.inf
    return high + math.log(sum(math.exp(value - high) for value in values) / len(values))
