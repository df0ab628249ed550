"""False alarms and delays of the drift detector beside Evidently, river and frouros on the same streams.

    PYTHONPATH=operator:server_image:bench python bench/drift.py [--data FOLDER] [--months 20] [--json FILE]
        [--plot docs/drift.svg]

Streams of 72,000 requests in 30 days: the simulated traffic of `drift_traffic.py`, and with --data (banking77's
train.csv) real requests of 51 intents in random order. After each month without a change the stream shifts: by 0.3
standard deviations of surprisal, or to requests half of which have one of 26 new intents. Counted are the months with a
false alarm, and the requests from the shift until the next alarm.

Driftloop reads what its proxy counts: text signals (three of the simulated traffic, and novelty too of the real
requests) and ratings. The others get only the signal that shifts, as
numbers, so they can't raise false alarms about the others. All learn what is normal from the month itself: windows are
compared with its first day, and ADWIN and Page-Hinkley adapt as they do. The other libraries are installed into an
environment of their own in ~/.cache/driftloop, with the versions below.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from chart import chart, place
from drift_months import born, live_day
from drift_traffic import DAY, MINUTES, Floats, Ints, Traffic, per_minute, population
from drift_traffic import day as simulated_day
from intents import read_rows

from driftloop.api.inferenceservice import Drift
from driftloop.contract.names import NOVELTY, SIGNALS
from driftloop.controller.drift.detector import FEEDBACK
from driftloop.podlib.novelty import profile_of
from driftloop_server.proxy.drift import Reference

RATE = 72_000 / (30 * DAY)
DAYS, AFTER = 30, 5  # days before and after the shift
REQUIREMENTS = ("evidently==0.7.23", "river==0.23.0", "frouros==0.9.0")
NEW_INTENTS, PROFILE_TEXTS, SHARE_NEW = 26, 2_000, 0.5
OURS, WITHOUT = "Driftloop, defaults", "Driftloop without novelty"


@dataclass(frozen=True)
class Stream:
    """A month and what follows: the signal that shifts, in the order of time, and counts per minute of each day."""

    name: str
    values: Floats
    shift: int  # index of the first request after the shift
    days: list[dict[str, Ints]]
    minute: int  # of the day of the shift


@dataclass(frozen=True)
class Outcome:
    """Whether a detector raised an alarm before the shift, and the requests after it until an alarm."""

    stream: str
    detector: str
    false_alarm: bool
    delay: float


def simulated(seed: int, size: float = 0.3) -> Stream:
    """Simulated traffic whose surprisal rises by `size`."""
    rng = np.random.default_rng([DAYS, seed])
    traffic = Traffic(RATE, alike=True)
    people = population(rng, traffic)
    minute, days, values, before = int(rng.integers(0, MINUTES)), [], [], 0
    for number in range(DAYS + AFTER):
        requests = simulated_day(rng, traffic, people, number % 7)
        if number >= DAYS:
            shifted = requests.second >= (minute * 60 if number == DAYS else 0)
            requests.scores[shifted, 0] += size
            before += int((~shifted).sum())
        else:
            before += requests.second.size
        days.append(per_minute(requests))
        values.append(requests.scores[np.argsort(requests.second, kind="stable"), 0])
    return Stream("simulated", np.concatenate(values), before, days, minute)


def real(folder: Path, seed: int) -> Stream:
    """Requests of banking77, of which half have a new intent after the shift. Its signal is surprisal."""
    rows = read_rows(folder / "train.csv")
    chooser = random.Random(seed)  # noqa: S311 - a seeded order
    intents = sorted({intent for _, intent in rows})
    chooser.shuffle(intents)
    new = set(intents[:NEW_INTENTS])
    known = [text for text, intent in rows if intent not in new]
    chooser.shuffle(known)
    reference = Reference.of(profile_of(known[:PROFILE_TEXTS]))
    texts = known[PROFILE_TEXTS:] + [text for text, intent in rows if intent in new]
    old = len(known) - PROFILE_TEXTS
    surprisal = np.array([reference.profile.scores(text)["surprisal"] for text in texts])
    found_bins = [reference.bins(text) for text in texts]
    bins = {signal: np.array([found[signal] for found in found_bins]) for signal in reference.masses()}
    rng, before = np.random.default_rng([77, seed]), 0
    minute, days, values = int(rng.integers(0, MINUTES)), [], []
    for number in range(DAYS + AFTER):
        second = np.sort(rng.uniform(0, DAY, int(rng.poisson(RATE * DAY))))
        shifted = np.full(second.size, number > DAYS) if number != DAYS else second >= minute * 60
        fresh = shifted & (rng.random(second.size) < SHARE_NEW)
        row = np.where(fresh, rng.integers(old, len(texts), second.size), rng.integers(0, old, second.size))
        before += int((~shifted).sum())
        at = (second // 60).astype(np.int64).clip(max=MINUTES - 1)
        tables = {}
        for signal, found in bins.items():
            width = len(reference.masses()[signal])
            tables[signal] = np.bincount(at * width + found[row], minlength=MINUTES * width).reshape(-1, width)
        tables[FEEDBACK] = np.zeros((MINUTES, 2), dtype=np.int64)
        days.append(tables)
        values.append(surprisal[row])
    return Stream("banking77", np.concatenate(values), before, days, minute)


def ours(stream: Stream, name: str = OURS) -> Outcome:
    """Driftloop's detector. A month with a false alarm has no delay, because the alarm stays up."""
    life = born(Drift())
    for counts in stream.days[:DAYS]:
        life, alarm = live_day(life, counts)
        if alarm is not None:
            return Outcome(stream.name, name, True, math.nan)
    sent = 0
    for number, counts in enumerate(stream.days[DAYS:]):
        first = stream.minute if number == 0 else 0
        life, alarm = live_day(life, counts)
        if alarm is not None and number == 0 and alarm < first:
            return Outcome(stream.name, name, True, math.nan)
        sent += int(counts[SIGNALS[0]][first : MINUTES if alarm is None else alarm + 1].sum())
        if alarm is not None:
            return Outcome(stream.name, name, False, sent)
    return Outcome(stream.name, name, False, math.inf)


def month(data: Path | None, folder: Path, seed: int) -> list[Outcome]:
    """Driftloop's detector on the streams of a seed, whose values are left in the folder for the others."""
    found = []
    for stream in [simulated(seed), *([real(data, seed)] if data else [])]:
        np.save(folder / f"{stream.name} {seed}.npy", stream.values)
        first_day = int(stream.days[0][SIGNALS[0]].sum())
        (folder / f"{stream.name} {seed}.json").write_text(json.dumps([first_day, stream.shift]))
        found.append(ours(stream))
        if NOVELTY in stream.days[0]:
            days = [{signal: table for signal, table in day.items() if signal != NOVELTY} for day in stream.days]
            found.append(ours(replace(stream, days=days), WITHOUT))
    return found


def others(folder: Path) -> Iterator[Outcome]:
    """The other libraries on all streams in the folder, in their own environment."""
    script = Path(__file__).with_name("drift_others.py")
    command = [environment(), "-W", "ignore", script, folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    for stream, detector, false_alarm, delay in json.loads(done.stdout):
        yield Outcome(stream.split(" ")[0], detector, false_alarm, math.inf if delay is None else delay)


def environment() -> Path:
    """The Python that has the other libraries."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "driftloop")
    folder = cache / "-".join(["detectors", *(name.replace("==", "-") for name in REQUIREMENTS)])
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)  # noqa: S603
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS], check=True)  # noqa: S603
        (folder / "ready").touch()
    return python


def table(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """A line per detector and stream."""
    lines: list[dict[str, object]] = []
    for key in dict.fromkeys((o.detector, o.stream) for o in outcomes):
        found = [o for o in outcomes if (o.detector, o.stream) == key]
        delays = [o.delay for o in found if not math.isnan(o.delay)]
        lines.append(
            {
                "detector": key[0],
                "stream": key[1],
                "months": len(found),
                "false": sum(o.false_alarm for o in found),
                "median": statistics.median(delays) if delays else math.nan,
                "missed": sum(math.isinf(delay) for delay in delays),
            }
        )
    return lines


def markdown(lines: Sequence[dict[str, object]]) -> str:
    """The table of the README."""
    streams = list(dict.fromkeys(str(line["stream"]) for line in lines))
    head = " | ".join(f"{s}: false alarms | {s}: delay" for s in streams)
    text = [f"| detector | {head} |", "|---" * (1 + 2 * len(streams)) + "|"]
    for name in dict.fromkeys(str(line["detector"]) for line in lines):
        cells = [name]
        for stream in streams:
            line = next((each for each in lines if (each["detector"], each["stream"]) == (name, stream)), None)
            told = [f"{line['false']} of {line['months']}", _requests(float(str(line["median"])))] if line else []
            cells += told or ["", ""]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def _requests(median: float) -> str:
    if math.isinf(median):
        return f"none in {AFTER} days"
    return "" if math.isnan(median) else f"{median:,.0f}"


def svg(lines: Sequence[dict[str, object]]) -> str:
    """The share of months with a false alarm over the median delay, with a point per detector and stream."""
    colours = (
        *("#d62728", "#ff9896", "#1f77b4", "#6baed6", "#2ca02c"),
        *("#98df8a", "#9467bd", "#c5b0d5", "#8c564b", "#c49c94"),
    )
    names = dict(zip(dict.fromkeys(str(line["detector"]) for line in lines), colours, strict=False))
    seen = [line for line in lines if not math.isnan(float(str(line["median"])))]
    return chart(
        {_across(requests): f"{requests:,}" for requests in (100, 1_000, 10_000)},
        "requests from the shift until the alarm, median (right edge: none)",
        "months with a false alarm",
        [_point(line, colour) for name, colour in names.items() for line in seen if line["detector"] == name],
        names,
        "filled: simulated, hollow: banking77",
    )


def _across(requests: float) -> float:
    low, high = math.log10(30), math.log10(20_000)
    return min(1.0, max(0.0, (math.log10(max(requests, 1)) - low) / (high - low)))


def _point(line: dict[str, object], colour: str) -> str:
    x, y = place(_across(float(str(line["median"]))), int(str(line["false"])) / int(str(line["months"])))
    fill = colour if line["stream"] == "simulated" else "white"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{fill}" stroke="{colour}" stroke-width="2"/>'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with banking77's train.csv")
    parser.add_argument("--months", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(arguments.processes) as pool:
        folder = Path(name)
        months = pool.map(partial(month, arguments.data, folder), range(arguments.months))
        for number, found in enumerate(months, start=1):
            outcomes += found
            print(f"{number} of {arguments.months} months", file=sys.stderr, flush=True)
        outcomes += others(folder)
    lines = table(outcomes)
    print(markdown(lines))
    if arguments.json:
        arguments.json.write_text(json.dumps(lines, indent=1))
    if arguments.plot:
        arguments.plot.write_text(svg(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
