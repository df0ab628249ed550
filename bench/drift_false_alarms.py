"""False alarms and delays of the drift detector, with simulated traffic at several rates.

    PYTHONPATH=operator python bench/drift_false_alarms.py [--rate 1 5 30] [--days 10] [--runs 6] [--seed 1]
        [--baseline-hours 24] [--look-seconds 60] [--no-bursts] [--independent]

The traffic has a daily cycle of the rate (4:1) and of the users; users with very unequal activity (Zipf), each with an
own style per signal, in sessions; bursts, one per 1,200 requests, in which one user sends the same text again and again
within a minute; and feedback on 30 % of the requests, 12 % of it bad. There are three text signals, in deciles as the
proxy counts them: surprisal; the share of unknown words, which correlates with it and is 0 in half of the requests; and
length, which is independent. The detector is the operator's own (`watch`) and starts with an empty status. After a
false alarm it starts again, as it does for a new version. At the end of each run surprisal shifts by 0.3 standard
deviations, and the requests until the alarm are counted.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from driftloop.api.inferenceservice import Drift, DriftStatus
from driftloop.contract.names import SIGNALS
from driftloop.controller.drift.detector import FEEDBACK, Counters
from driftloop.controller.drift.watch import watch

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 86_400
BINS = 10
NEVER = 100_000  # requests after a shift without an alarm, after which the run ends
Floats = NDArray[np.float64]
_EDGES = [statistics.NormalDist().inv_cdf(i / BINS) for i in range(1, BINS)]
_OOV_EDGES = _EDGES[BINS // 2 - 1 :]  # half of the requests have no unknown word and share one bin


@dataclass(frozen=True)
class Traffic:
    """How live traffic differs from independent samples."""

    rate: float  # average requests per second
    users: int = 2_000
    zipf: float = 0.8  # the most active of 2,000 users sends 4 % of the requests
    style: float = 0.3  # spread of the users' means, in standard deviations of a request
    session: float = 4.0  # average requests per session
    daily: float = 0.05  # amplitude of the mean over the day, in standard deviations
    requests_per_burst: float = 1_200.0
    burst_size: int = 100
    burst_seconds: float = 60.0
    rated: float = 0.3
    bad: float = 0.12


@dataclass(frozen=True)
class Population:
    """The users: cumulative shares of the sessions, and styles of shape (users, signals)."""

    shares: Floats
    style: Floats


def population(rng: np.random.Generator, traffic: Traffic) -> Population:
    weights = 1 / np.arange(1, traffic.users + 1) ** traffic.zipf
    weights /= weights.sum()
    style = rng.normal(0, traffic.style, (traffic.users, len(SIGNALS)))
    return Population(weights.cumsum(), style - weights @ style)  # centred, so that the average user is normal


def day(
    rng: np.random.Generator, traffic: Traffic, people: Population, shift: float = 0.0
) -> tuple[Floats, Floats, Floats]:
    """For each request the second of the day, the scores (requests, signals) and the rating: 1 bad, 0 good, -1 none."""
    total = rng.poisson(traffic.rate * DAY)
    bursts = rng.poisson(total / traffic.requests_per_burst)
    sessions = max(1, round((total - bursts * traffic.burst_size) / traffic.session))
    lengths = rng.geometric(1 / traffic.session, sessions)
    user = np.repeat(np.searchsorted(people.shares, rng.random(sessions)).clip(max=traffic.users - 1), lengths)
    second = (np.repeat(_times_of_day(rng, sessions), lengths) + rng.exponential(60, user.size)) % DAY
    own = rng.normal(0, np.sqrt(1 - traffic.style**2), (user.size, len(SIGNALS)))
    own[:, 1] = 0.6 * own[:, 0] + 0.8 * own[:, 1]  # a rare pair of words often contains an unknown word
    scores = people.style[user] + own + (traffic.daily * np.sin(2 * np.pi * second / DAY))[:, None]
    starts = np.repeat(rng.uniform(0, DAY - traffic.burst_seconds, bursts), traffic.burst_size)
    second = np.concatenate([second, starts + rng.uniform(0, traffic.burst_seconds, starts.size)])
    scores = np.concatenate([scores, np.repeat(rng.normal(0, 1, (bursts, len(SIGNALS))), traffic.burst_size, axis=0)])
    scores[:, 0] += shift
    rating = np.where(rng.random(second.size) < traffic.rated, rng.random(second.size) < traffic.bad, -1.0)
    return second, scores, rating.astype(np.float64)


def _times_of_day(rng: np.random.Generator, count: int) -> Floats:
    """Random times of the day, at noon four times as many as at midnight."""
    times = rng.uniform(0, DAY, 2 * count + 100)
    keep = rng.random(times.size) < 0.625 - 0.375 * np.cos(2 * np.pi * times / DAY)
    return np.resize(times[keep], count)


def looks(requests: tuple[Floats, Floats, Floats], every: float, begin: datetime) -> Iterator[Counters]:
    """The counters of each interval of a day, without empty intervals."""
    second, scores, rating = requests
    windows = round(DAY / every)
    look = (second // every).astype(np.int64).clip(max=windows - 1)

    def counted(bins: NDArray[np.int64], width: int) -> list[list[int]]:
        table: list[list[int]] = np.bincount(look * width + bins, minlength=windows * width).reshape(-1, width).tolist()
        return table

    tables = {}
    for column, signal in enumerate(SIGNALS):
        edges = _OOV_EDGES if signal == "oov" else _EDGES
        tables[signal] = counted(np.searchsorted(edges, scores[:, column]), len(edges) + 1)
    tables[FEEDBACK] = [row[:2] for row in counted(np.where(rating < 0, 2, rating).astype(np.int64), 3)]
    for number in range(windows):
        if sum(tables[SIGNALS[0]][number]):
            until = begin + timedelta(seconds=(number + 1) * every)
            yield Counters(until, {signal: table[number] for signal, table in tables.items()})


def run(rng: np.random.Generator, traffic: Traffic, spec: Drift, days: int, every: float) -> tuple[int, float]:
    """False alarms in `days` days, and the number of requests from a shift afterwards until the alarm."""
    people = population(rng, traffic)
    status, alarms = watch(DriftStatus(), "v1", None, spec, START), 0
    for number in range(days):
        for counters in looks(day(rng, traffic, people), every, START + timedelta(days=number)):
            status = watch(status, "v1", counters, spec, counters.until)
            if status.alarm:
                alarms += 1
                status = watch(DriftStatus(), "v1", None, spec, counters.until)
    requests, number = 0.0, days
    while requests < NEVER:
        for counters in looks(day(rng, traffic, people, 0.3), every, START + timedelta(days=number)):
            status = watch(status, "v1", counters, spec, counters.until)
            requests += counters.requests
            if status.alarm:
                return alarms, requests
        number += 1
    return alarms, float("inf")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, nargs="+", default=[1.0, 5.0, 30.0], help="requests per second")
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--baseline-hours", type=float, default=24.0)
    parser.add_argument("--look-seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-bursts", action="store_true")
    parser.add_argument("--independent", action="store_true", help="no users, cycles or bursts")
    arguments = parser.parse_args()
    spec = Drift(baseline_minimum_hours=arguments.baseline_hours)
    began = time.monotonic()
    print("requests/s | runs | days per run | runs with false alarms | false alarms per month | requests to true alarm")
    for rate in arguments.rate:
        traffic = Traffic(rate, requests_per_burst=float("inf")) if arguments.no_bursts else Traffic(rate)
        if arguments.independent:
            traffic = Traffic(rate, style=0.0, session=1.0, daily=0.0, requests_per_burst=float("inf"))
        results = [
            run(np.random.default_rng([arguments.seed, n]), traffic, spec, arguments.days, arguments.look_seconds)
            for n in range(arguments.runs)
        ]
        alarms = [count for count, _ in results]
        month = 30 * sum(alarms) / (arguments.runs * arguments.days)
        print(
            f"{rate:g} | {arguments.runs} | {arguments.days} | {sum(count > 0 for count in alarms)} | {month:.1f} | "
            f"{statistics.median(delay for _, delay in results):.0f} | {time.monotonic() - began:.0f} s so far",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
