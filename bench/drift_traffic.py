"""Simulated requests of a service, for the benches of drift: bins per minute of each day.

Requests differ from independent samples in these ways: a daily cycle of the rate (4:1) and of the mean; weekends with
fewer requests and another mean; users with very unequal activity (Zipf), each with an own style per signal, in
sessions; a tenth of the users write another language and are awake at night; bursts, in which one user sends similar
requests again and again within a minute; bots that send a share of the requests for hours; and feedback on 30 % of the
requests, 12 % of it bad. There are three text signals, in deciles as the proxy counts them: surprisal; the share of
unknown words, which correlates with it and is 0 in half of the requests; and length, which is independent.
"""

import statistics
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftloop.contract.names import SIGNALS
from driftloop.controller.drift.detector import FEEDBACK

DAY = 86_400
MINUTES = DAY // 60
BINS = 10
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
EDGES = [statistics.NormalDist().inv_cdf(i / BINS) for i in range(1, BINS)]
OOV_EDGES = EDGES[BINS // 2 - 1 :]  # half of the requests have no unknown word and share one bin


@dataclass(frozen=True)
class Traffic:
    """How live traffic differs from independent samples. Means are in standard deviations of a request."""

    rate: float  # average requests per second
    users: int = 2_000
    zipf: float = 0.8  # the most active of 2,000 users sends 4 % of the requests
    style: float = 0.3  # spread of the users' means
    session: float = 4.0  # average requests per session
    daily: float = 0.05  # amplitude of the mean over the day
    weekly: float = 0.05  # difference of the mean at weekends
    foreign: float = 0.1  # share of users with another language, 0.5 higher in surprisal and unknown words
    bursts: float = 1.0  # per 1,200 requests, each of `burst_size`
    burst_size: int = 100
    alike: bool = False  # whether a burst repeats one text, of which the proxy counts few (`proxy/drift.py`)
    bots: float = 0.3  # per day, each for 4 hours
    bot_share: float = 0.02  # of the requests meanwhile; the proxy counts no more of one user
    rated: float = 0.3
    bad: float = 0.12


INDEPENDENT = {
    "users": 1,
    "style": 0.0,
    "session": 1.0,
    "daily": 0.0,
    "weekly": 0.0,
    "foreign": 0.0,
    "bursts": 0.0,
    "bots": 0.0,
}


@dataclass(frozen=True)
class Population:
    """The users: cumulative shares of the sessions, styles of shape (users, signals), and who is foreign."""

    shares: Floats
    style: Floats
    foreign: NDArray[np.bool_]


@dataclass(frozen=True)
class Requests:
    """The second of the day, the scores (requests, signals) and the rating: 1 bad, 0 good, -1 none."""

    second: Floats
    scores: Floats
    rating: Floats


def population(rng: np.random.Generator, traffic: Traffic) -> Population:
    weights = 1 / np.arange(1, traffic.users + 1) ** traffic.zipf
    weights /= weights.sum()
    foreign = rng.random(traffic.users) < traffic.foreign
    style = rng.normal(0, traffic.style, (traffic.users, len(SIGNALS)))
    style[:, :2] += 0.5 * foreign[:, None]
    return Population(weights.cumsum(), style - weights @ style, foreign)  # the average user is normal


def day(rng: np.random.Generator, traffic: Traffic, people: Population, weekday: int) -> Requests:
    """The requests of a day, unsorted."""
    weekend = weekday >= 5
    total = int(rng.poisson(traffic.rate * DAY * (0.6 if weekend else 1.16)))
    bursts = int(rng.poisson(total / 1_200 * traffic.bursts))
    sessions = max(1, round((total - bursts * traffic.burst_size) / traffic.session))
    lengths = rng.geometric(1 / traffic.session, sessions)
    user = np.searchsorted(people.shares, rng.random(sessions)).clip(max=traffic.users - 1)
    starts = (_times_of_day(rng, sessions) + DAY / 2 * people.foreign[user]) % DAY
    user = np.repeat(user, lengths)
    second = (np.repeat(starts, lengths) + rng.exponential(60, user.size)) % DAY
    noise = rng.normal(0, np.sqrt(1 - traffic.style**2), (user.size, len(SIGNALS)))
    noise[:, 1] = 0.6 * noise[:, 0] + 0.8 * noise[:, 1]  # a rare pair of words often contains an unknown word
    scores = people.style[user] + noise + (traffic.daily * np.sin(2 * np.pi * second / DAY))[:, None]
    size = 3 if traffic.alike else traffic.burst_size
    parts = [(second, scores), _bursts(rng, bursts, size, 0.1), _bots(rng, traffic, total)]
    second = np.concatenate([part[0] for part in parts])
    scores = np.concatenate([part[1] for part in parts]) + traffic.weekly * weekend
    rating = np.where(rng.random(second.size) < traffic.rated, rng.random(second.size) < traffic.bad, -1.0)
    return Requests(second, scores, rating.astype(np.float64))


def per_minute(requests: Requests) -> dict[str, Ints]:
    """Counts of shape (minutes of the day, bins) per signal."""
    minute = (requests.second // 60).astype(np.int64).clip(max=MINUTES - 1)

    def table(bins: Ints, width: int) -> Ints:
        return np.bincount(minute * width + bins, minlength=MINUTES * width).reshape(-1, width).astype(np.int64)

    tables = {}
    for column, signal in enumerate(SIGNALS):
        edges = OOV_EDGES if signal == "oov" else EDGES
        tables[signal] = table(np.searchsorted(edges, requests.scores[:, column]), len(edges) + 1)
    rating = np.where(requests.rating < 0, 2, requests.rating).astype(np.int64)
    tables[FEEDBACK] = table(rating, 3)[:, :2]
    return tables


def _times_of_day(rng: np.random.Generator, count: int) -> Floats:
    """Random times of the day, at noon four times as many as at midnight."""
    times = rng.uniform(0, DAY, 2 * count + 100)
    return np.resize(times[rng.random(times.size) < _activity(times)], count)


def _activity(second: Floats) -> Floats:
    """The rate of requests in relation to the one at noon; its mean is 0.625."""
    return np.asarray(0.625 - 0.375 * np.cos(2 * np.pi * second / DAY))


def _bursts(rng: np.random.Generator, count: int, size: int, spread: float) -> tuple[Floats, Floats]:
    starts = np.repeat(rng.uniform(0, DAY - 60, count), size)
    centres = np.repeat(rng.normal(0, 1, (count, len(SIGNALS))), size, axis=0)
    return starts + rng.uniform(0, 60, starts.size), centres + rng.normal(0, spread, centres.shape)


def _bots(rng: np.random.Generator, traffic: Traffic, total: float) -> tuple[Floats, Floats]:
    """Requests of users who send `bot_share` of all requests for four hours."""
    number, span = int(rng.poisson(traffic.bots)), DAY / 6
    candidates = rng.poisson(traffic.bot_share * total * span / DAY / 0.625, number)
    starts = np.repeat(rng.uniform(0, DAY - span, number), candidates)
    centres = np.repeat(rng.normal(0, 1, (number, len(SIGNALS))), candidates, axis=0)
    second = starts + rng.uniform(0, span, starts.size)
    sent = rng.random(second.size) < _activity(second)
    return second[sent], (centres + rng.normal(0, 0.3, centres.shape))[sent]
