"""False alarms and delays of the drift detector, on simulated months of 72,000 requests.

    PYTHONPATH=operator python bench/drift_false_alarms.py [--months 300] [--look-seconds 60] [--seed 1]

Traffic: a daily cycle of the rate (4:1) and of the mix of users; users of very unequal activity (Zipf), each with a
style of their own, in sessions; bursts, in which one user sends the same text over and over within a minute; feedback
on 30 % of the requests, 12 % of it bad. The detector is the operator's own (`watch`), from an empty status on: it
learns its baseline from the first 300 requests. After the month the text's signal shifts by 0.3 standard deviations.
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
from driftloop.controller.drift.detector import FEEDBACK, MONTH, Counters
from driftloop.controller.drift.watch import watch

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 86_400
BINS = 10
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """What makes live traffic unlike independent draws."""

    users: int = 2_000
    zipf: float = 0.8  # the most active of 2,000 users sends 4 % of the requests
    style: float = 0.3  # spread of the users' own means, in standard deviations of a request
    session: float = 4.0  # mean requests of a session
    daily: float = 0.05  # swing of the mean over the day, in standard deviations
    bursts_per_day: float = 2.0
    burst_size: int = 100
    burst_seconds: float = 60.0
    rated: float = 0.3
    bad: float = 0.12


def simulate(
    rng: np.random.Generator, requests: int, days: float, traffic: Traffic, shift: float = 0.0
) -> tuple[Floats, Floats, Floats]:
    """(second, score, rating) of each request, in order of time. Rating: 1 bad, 0 good, -1 none."""
    bursts = rng.poisson(traffic.bursts_per_day * days)
    sessions = max(1, round((requests - bursts * traffic.burst_size) / traffic.session))
    weights = 1 / np.arange(1, traffic.users + 1) ** traffic.zipf
    style = rng.normal(0, traffic.style, traffic.users)
    style -= np.average(style, weights=weights)  # the population is the reference
    lengths = rng.geometric(1 / traffic.session, sessions)
    user = np.repeat(rng.choice(traffic.users, sessions, p=weights / weights.sum()), lengths)
    start = np.repeat(_times_of_day(rng, sessions, days), lengths)
    second = start + rng.exponential(60, user.size)
    own = np.sqrt(1 - traffic.style**2)
    score = style[user] + rng.normal(0, own, user.size) + traffic.daily * np.sin(2 * np.pi * second / DAY)
    burst_start = np.repeat(rng.uniform(0, days * DAY, bursts), traffic.burst_size)
    second = np.concatenate([second, burst_start + rng.uniform(0, traffic.burst_seconds, burst_start.size)])
    score = np.concatenate([score, np.repeat(rng.normal(0, 1, bursts), traffic.burst_size)]) + shift
    rating = np.where(rng.random(second.size) < traffic.rated, rng.random(second.size) < traffic.bad, -1.0)
    order = np.argsort(second)
    return second[order], score[order], rating[order].astype(np.float64)


def _times_of_day(rng: np.random.Generator, count: int, days: float) -> Floats:
    """Busy at noon, a quarter of that at midnight."""
    found = rng.uniform(0, days * DAY, 4 * count)
    keep = rng.random(found.size) < 0.625 - 0.375 * np.cos(2 * np.pi * found / DAY)
    return np.asarray(found[keep][:count])


def looks(
    second: Floats, score: Floats, rating: Floats, every: float, begin: datetime
) -> Iterator[tuple[Counters, int]]:
    """The counters of each look that has requests, and the requests so far."""
    edges = [statistics.NormalDist().inv_cdf(i / BINS) for i in range(1, BINS)]
    bins = np.searchsorted(edges, score)
    for part in np.split(np.arange(second.size), np.flatnonzero(np.diff(second // every)) + 1):
        until = begin + timedelta(seconds=(second[part[0]] // every + 1) * every)
        counts = np.bincount(bins[part], minlength=BINS).tolist()
        ratings = (int((rating[part] == 0).sum()), int((rating[part] == 1).sum()))
        yield Counters(until, {"surprisal": counts, FEEDBACK: ratings}), int(part[-1]) + 1


def follow(status: DriftStatus, found: Iterator[tuple[Counters, int]], spec: Drift) -> tuple[DriftStatus, int | None]:
    """Look until the alarm goes, and the requests that it took; None if it never does."""
    for counters, requests in found:
        status = watch(status, "v1", counters, spec, counters.until)
        if status.alarm:
            return status, requests
    return status, None


def month(
    rng: np.random.Generator, every: float, traffic: Traffic, spec: Drift, shift: float
) -> tuple[int | None, int | None]:
    """(requests until a false alarm, requests from the shift to its alarm); None where there was none."""
    status = watch(DriftStatus(), "v1", None, spec, START)
    status, false = follow(status, looks(*simulate(rng, MONTH, 30, traffic), every, START), spec)
    if false is not None:
        return false, None
    drifted = simulate(rng, 4_800, 2, traffic, shift)
    return None, follow(status, looks(*drifted, every, START + timedelta(days=31)), spec)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, default=300)
    parser.add_argument("--look-seconds", type=float, default=60.0)
    parser.add_argument("--shift", type=float, default=0.3, help="standard deviations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--independent", action="store_true", help="no users, cycles or bursts")
    arguments = parser.parse_args()
    traffic = Traffic(style=0.0, session=1.0, daily=0.0, bursts_per_day=0.0) if arguments.independent else Traffic()
    false: list[int] = []
    delays: list[float] = []
    began = time.monotonic()
    for number in range(arguments.months):
        rng = np.random.default_rng([arguments.seed, number])
        alarm, delay = month(rng, arguments.look_seconds, traffic, Drift(), arguments.shift)
        if alarm is not None:
            false.append(alarm)
        else:
            delays.append(delay if delay is not None else float("inf"))
        if (number + 1) % 10 == 0:
            print(
                f"{number + 1} months: {len(false)} false alarms; delay at {arguments.shift} sigma: "
                f"median {statistics.median(delays):.0f}, 90 % {sorted(delays)[int(0.9 * len(delays))]:.0f} requests; "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
    print(f"false alarms at requests: {false}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
