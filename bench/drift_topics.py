"""Whether the topics that an alarm names are the new ones, how often chance names one, and what a request costs.

    PYTHONPATH=operator:bench python bench/drift_topics.py --data FOLDER [--runs 100] [--before 5000] [--since 400]

FOLDER has banking77's train.csv. Each run draws requests of some intents before the change. Since the change a share of
the requests has new intents, which were not there before. Counted are the runs in which a topic is named, the topics of
which most requests since the change have a new intent, and the example requests that have one. Without new intents
every topic is a false one.
"""

import argparse
import random
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from intents import read_rows

from driftloop.contract.topics import Asked, Sample, asked, topics

CHANGE = datetime(2026, 1, 2, tzinfo=UTC)
CASES = ((0, 0.0), (1, 0.05), (1, 0.1), (1, 0.3), (3, 0.3), (26, 0.5))  # new intents and their share of the requests
Row = tuple[str, str]  # text and intent


@dataclass(frozen=True)
class Run:
    """Topics of a run: those named, those about new intents, and their examples."""

    named: int
    right: int
    examples: int
    right_examples: int
    seconds: float


def run(rows: list[Row], new: int, share: float, sides: tuple[int, int], together: float, seed: int) -> Run:
    """Draw requests, and find their topics."""
    rng = random.Random(seed)  # noqa: S311 - a seeded order
    intents = sorted({intent for _, intent in rows})
    fresh = set(rng.sample(intents, new))
    old_rows = [row for row in rows if row[1] not in fresh]
    new_rows = [row for row in rows if row[1] in fresh]
    before = [sent(rng.choice(old_rows), -1 - number) for number in range(sides[0])]
    since = [sent(rng.choice(new_rows if rng.random() < share else old_rows), number) for number in range(sides[1])]
    began = time.process_time()
    found = topics(before, since, together) or ()
    seconds = time.process_time() - began
    right = 0
    for topic in found:
        kinds = [request.name in fresh for request in since if topic.terms[0] in request.terms]
        right += sum(kinds) > len(kinds) / 2
    examples = [name in fresh for topic in found for name in topic.examples]
    return Run(len(found), right, len(examples), sum(examples), seconds)


def sent(row: Row, second: int) -> Asked:
    """A request whose name is its intent."""
    return asked(CHANGE + timedelta(seconds=second), row[0], None, row[1])


def microseconds(rows: list[Row]) -> float:
    """What it costs to remember a request."""
    sample, times = Sample(), []
    for _ in range(5):
        began = time.process_time()
        for row in rows:
            sample.add(sent(row, 0))
        times.append((time.process_time() - began) / len(rows))
    return min(times) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with banking77's train.csv")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--before", type=int, default=5_000, help="requests before the change")
    parser.add_argument("--since", type=int, default=400, help="requests since the change")
    parser.add_argument("--together", type=float, default=1.0, help="requests that count as one")
    arguments = parser.parse_args()
    rows = read_rows(arguments.data / "train.csv")
    print("| new intents | share of the requests | runs with a topic | topics about them | examples of them |")
    print("|---|---|---|---|---|")
    seconds = []
    for new, share in CASES:
        sides = (arguments.before, arguments.since)
        runs = [run(rows, new, share, sides, arguments.together, seed) for seed in range(arguments.runs)]
        seconds += [one.seconds for one in runs]
        named, topical = sum(one.named > 0 for one in runs), sum(one.named for one in runs)
        right = f"{sum(one.right for one in runs)} of {topical}"
        shown = f"{sum(one.right_examples for one in runs)} of {sum(one.examples for one in runs)}"
        print(f"| {new} | {share:.0%} | {named} of {len(runs)} | {right} | {shown} |", flush=True)
    print(f"{statistics.median(seconds):.2f} s per alarm, {microseconds(rows):.0f} microseconds per request")
    return 0


if __name__ == "__main__":
    sys.exit(main())
