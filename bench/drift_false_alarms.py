"""False alarms and delays of the drift detector in simulated months, at several rates of requests.

    PYTHONPATH=operator:bench python bench/drift_false_alarms.py [--rate 0.0278 0.0926 0.833] [--months 100] [--days 30]
        [--daily 0.05] [--weekly 0.05] [--alike] [--independent] [--tolerance 0.02] [--processes 1] [--json FILE]

0.0278, 0.0926 and 0.833 requests per second are 72,000 in 30, 10 and 1 days. The traffic is that of
`drift_traffic.py`. A month begins with an empty detector and ends with its first alarm. After a month without one,
surprisal shifts by 0.2, 0.3 or 1 standard deviation at a random hour, and the requests until the alarm are counted.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from drift_months import Life, born, live_day
from drift_traffic import INDEPENDENT, MINUTES, Population, Traffic, day, per_minute, population

from driftloop.api.inferenceservice import Drift
from driftloop.contract.names import SIGNALS

SHIFTS = (0.2, 0.3, 1.0)
NEVER = 21  # days after a shift without an alarm, after which the run ends


@dataclass(frozen=True)
class Month:
    """The day of the first false alarm, else the requests and minutes from each shift until the alarm."""

    false_alarm: int | None
    requests: dict[float, float]
    minutes: dict[float, float]


def month(traffic: Traffic, spec: Drift, days: int, seed: int) -> Month:
    rng = np.random.default_rng([days, seed])
    people = population(rng, traffic)
    life = born(spec)
    for number in range(days):
        life, alarm = live_day(life, per_minute(day(rng, traffic, people, number % 7)))
        if alarm is not None:
            return Month(number, {}, {})
    begin = int(rng.integers(0, MINUTES))
    delays = {shift: delay(traffic, people, life, days, begin, shift, seed) for shift in SHIFTS}
    return Month(None, {s: d[0] for s, d in delays.items()}, {s: d[1] for s, d in delays.items()})


def delay(
    traffic: Traffic, people: Population, life: Life, days: int, begin: int, shift: float, seed: int
) -> tuple[float, float]:
    """Requests and minutes from minute `begin` of the next day, where the shift begins, until the alarm."""
    rng, sent = np.random.default_rng([seed, 7]), 0
    for number in range(days, days + NEVER):
        requests = day(rng, traffic, people, number % 7)
        first = begin if number == days else 0
        requests.scores[requests.second >= first * 60, 0] += shift
        counts = per_minute(requests)
        life, alarm = live_day(life, counts)
        until = MINUTES if alarm is None else alarm + 1
        sent += int(counts[SIGNALS[0]][first:until].sum())
        if alarm is not None:
            return sent, (number - days) * MINUTES + until - begin
    return float("inf"), float("inf")


def summary(rate: float, months: Sequence[Month]) -> dict[str, float]:
    calm = [m for m in months if m.false_alarm is None]
    figures = {"rate": rate, "months": len(months), "false": len(months) - len(calm)}
    for shift in SHIFTS if calm else ():
        found = [m.requests[shift] for m in calm]
        figures[f"median {shift}"] = statistics.median(found)
        figures[f"minutes {shift}"] = statistics.median(m.minutes[shift] for m in calm)
        figures[f"in 2000 {shift}"] = sum(d <= 2_000 for d in found) / len(found)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, nargs="+", default=[0.0278, 0.0926, 0.833], help="requests per second")
    parser.add_argument("--months", type=int, default=100)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--daily", type=float, default=0.05)
    parser.add_argument("--weekly", type=float, default=0.05)
    parser.add_argument("--alike", action="store_true", help="bursts repeat one text")
    parser.add_argument("--independent", action="store_true", help="no users, cycles, bursts and bots")
    parser.add_argument("--tolerance", type=float, default=Drift().tolerance)
    parser.add_argument("--budget", type=float, default=Drift().false_alarms_per_month)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    spec = Drift(tolerance=arguments.tolerance, false_alarms_per_month=arguments.budget)
    cycles = {"daily": arguments.daily, "weekly": arguments.weekly, "alike": arguments.alike}
    print(
        "requests/s | months | with a false alarm | "
        + " | ".join(f"{s} sd: median requests, minutes, within 2,000" for s in SHIFTS)
    )
    lines = []
    for rate in arguments.rate:
        began = time.monotonic()
        traffic = Traffic(rate, **(cycles | (INDEPENDENT if arguments.independent else {})))
        seeds = range(arguments.seed, arguments.seed + arguments.months)
        with ProcessPoolExecutor(arguments.processes) as pool:
            months = list(pool.map(partial(month, traffic, spec, arguments.days), seeds, chunksize=5))
        line = summary(rate, months)
        lines.append(line)
        parts = [
            f"{line[f'median {s}']:.0f}, {line[f'minutes {s}']:.0f}, {line[f'in 2000 {s}']:.2f}"
            for s in SHIFTS
            if f"median {s}" in line
        ]
        days = sorted(m.false_alarm for m in months if m.false_alarm is not None)
        print(
            f"{rate:g} | {line['months']} | {line['false']} | {' | '.join(parts)} | days of false alarms {days[:12]} | "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(lines, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
