"""What the detector has learned, as the status stores it. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from driftloop.api.inferenceservice import DriftStatus, Learned, LearnedSignal, ReferenceSignal
from driftloop.contract.names import SIGNALS
from driftloop.controller.drift.detector import WATCHED, State
from driftloop.controller.drift.normal import HOURS, WEEKDAYS, Counts, Normal, Spread
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp


@dataclass(frozen=True)
class Memory:
    """What is normal, and the counts of the current block, which become normal when it ends without evidence."""

    normals: Mapping[str, Normal] = field(default_factory=dict)
    block: Mapping[str, Counts] = field(default_factory=dict)
    block_since: datetime | None = None
    whole_day: bool = False  # whether the current day was learned from its beginning


def entered(memory: Memory, when: datetime, learn: bool) -> Memory:
    """The memory at the begin of a window. With another hour the block ends, and with another day the day."""
    since = memory.block_since
    if since is None:
        return replace(memory, block_since=when)
    if (since.date(), since.hour) == (when.date(), when.hour):
        return memory
    ended = closed(memory, learn)
    if since.date() != when.date():
        normals = {name: normal.with_day(since, ended.whole_day) for name, normal in ended.normals.items()}
        ended = replace(ended, normals=normals, whole_day=True)
    return replace(ended, block_since=when)


def counted(memory: Memory, counts: Mapping[str, Counts]) -> Memory:
    """With the counts of a window in the block. A signal with other bins than before is left out."""
    block = dict(memory.block)
    for name, added in counts.items():
        before = block.get(name) or (0,) * len(added)
        if len(before) == len(added) > 0:
            block[name] = tuple(a + b for a, b in zip(before, added, strict=True))
    return replace(memory, block=block)


def closed(memory: Memory, learn: bool) -> Memory:
    """The memory after its block, which is learned or forgotten. A day without one of its blocks is not a whole day."""
    if not learn or memory.block_since is None:
        return replace(memory, block={}, whole_day=memory.whole_day and not memory.block)
    normals = dict(memory.normals)
    for name, counts in memory.block.items():
        normals[name] = normals.get(name, Normal()).with_block(counts, memory.block_since)
    return replace(memory, normals=normals, block={})


def known(memory: Memory) -> dict[str, Counts]:
    """The counts of what is normal, per signal."""
    return {name: normal.counts for name, normal in memory.normals.items()}


def seen(memory: Memory) -> dict[str, Counts]:
    """The counts of what is normal and of the block together, per signal."""
    return dict(counted(Memory(block=known(memory)), memory.block).block)


def design_effect(memory: Memory) -> float:
    """How many requests count as one: the most of any text signal."""
    return max((memory.normals.get(signal, Normal()).spread.design_effect for signal in SIGNALS), default=1.0)


def rows(counts: Mapping[str, Counts]) -> int:
    """Number of requests. Each one is in one bin of every text signal."""
    return max((sum(bins) for signal, bins in counts.items() if signal in SIGNALS), default=0)


def remembered(status: DriftStatus) -> Memory:
    """The memory in a status. What does not parse was never seen."""
    learned = status.learned or Learned()
    counts = {signal.signal: tuple(signal.counts) for signal in status.baseline}
    stored = {signal.signal: signal for signal in learned.signals}
    names = [*counts, *(name for name in stored if name not in counts)]
    return Memory(
        normals={name: _normal(counts.get(name, ()), stored.get(name)) for name in names},
        block={name: signal for name in stored if (signal := _parsed(stored[name].block))},
        block_since=parse_timestamp(learned.block_since) if learned.block_since else None,
        whole_day=learned.whole_day,
    )


def stored(memory: Memory) -> Learned:
    """The part of a memory that `baseline` does not contain."""
    names = [*memory.normals, *(name for name in memory.block if name not in memory.normals)]
    return Learned(
        block_since=timestamp(memory.block_since) if memory.block_since else None,
        whole_day=memory.whole_day,
        signals=[_signal(name, memory.normals.get(name, Normal()), memory.block.get(name, ())) for name in names],
    )


def baseline(memory: Memory) -> list[ReferenceSignal]:
    """The counts that are normal, per signal."""
    return [
        ReferenceSignal(signal=name, counts=list(normal.counts))
        for name, normal in memory.normals.items()
        if normal.counts
    ]


def encode(state: State) -> dict[str, str]:
    """The state as the status stores it: decimals in a text per signal."""
    return {signal: " ".join(decimal(value) for value in values) for signal, values in state.items()}


def decode(evidence: Mapping[str, str]) -> dict[str, tuple[float, ...]]:
    """The state that `encode` wrote. A signal that does not parse is left out and starts without evidence."""
    state = {}
    for signal, text in evidence.items():
        try:
            values = tuple(float(part) for part in text.split())
        except ValueError:
            continue
        if signal in WATCHED and not any(math.isnan(value) for value in values):
            state[signal] = values
    return state


def decimal(value: float) -> str:
    """Four decimals, which is enough for every reader of the status."""
    return f"{value:.4f}"


def _signal(name: str, normal: Normal, block: Counts) -> LearnedSignal:
    spread = normal.spread
    sums = (spread.total, spread.blocks, spread.day_total, spread.days, normal.today_moved)
    return LearnedSignal(
        signal=name,
        block=_text(block),
        previous=_text(normal.previous),
        today=_text(normal.today),
        hours=_cells_text(normal.hours),
        weekdays=_cells_text(normal.weekdays),
        spread=" ".join(f"{value:.6g}" for value in sums),
        design_effect=f"{spread.design_effect:.2f}",
    )


def _normal(counts: Counts, stored: LearnedSignal | None) -> Normal:
    if stored is None:
        return Normal(counts)
    sums = _sums(stored.spread)
    bins = len(counts)

    def fitting(cell: Counts) -> Counts:
        return cell if len(cell) == bins else ()

    return Normal(
        counts=counts,
        hours=tuple(map(fitting, _cells(stored.hours, HOURS))),
        weekdays=tuple(map(fitting, _cells(stored.weekdays, WEEKDAYS))),
        today=fitting(_parsed(stored.today)),
        today_moved=sums[4],
        previous=fitting(_parsed(stored.previous)),
        spread=Spread(*(max(0.0, value) for value in sums[:4])),
    )


def _text(counts: Counts) -> str:
    return " ".join(map(str, counts))


def _parsed(text: str) -> Counts:
    parts = text.split()
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


def _cells_text(cells: tuple[Counts, ...]) -> str:
    return "|".join(map(_text, cells)) if any(cells) else ""


def _cells(text: str, number: int) -> tuple[Counts, ...]:
    cells = tuple(map(_parsed, text.split("|")))
    return cells if len(cells) == number else ((),) * number


def _sums(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split())
    except ValueError:
        values = ()
    return values if len(values) == 5 and all(map(math.isfinite, values)) else (0.0,) * 5
