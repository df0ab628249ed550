"""The life of the drift detector over simulated days, fast: the operator's own decisions, with numpy between them.

What is normal changes only when a block ends (`controller/drift/memory.py`). So the windows of an hour are added up in
one step, with the bets, limits and references that the operator's functions give. The result is that of `watch`, window
by window.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from drift_traffic import MINUTES, Floats, Ints

from driftloop.api.inferenceservice import Drift, DriftStatus
from driftloop.contract.names import SIGNALS
from driftloop.controller.drift.detector import WATCHED, Reference, averaged, bets, smoothed, start_weight, threshold
from driftloop.controller.drift.memory import Memory, closed, counted, entered, known, rows, seen
from driftloop.controller.drift.pace import Pace, advance, expected_requests, independent_limit, limited
from driftloop.controller.drift.watch import ceiling, is_alarm, learns, references
from driftloop.controller.vocabulary.conditions import timestamp

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
SECONDS = 60.0  # of a window
State = dict[str, Floats]  # signal -> ln R per bet


@dataclass(frozen=True)
class Life:
    """The detector of one version."""

    spec: Drift
    memory: Memory
    state: State
    pace: Pace
    evidence: float
    now: datetime
    since: datetime
    rested: datetime  # when the evidence was last at rest
    collecting: bool = True

    @property
    def limit(self) -> float:
        return threshold(self.spec.false_alarms_per_month)


def born(spec: Drift, now: datetime = START) -> Life:
    return Life(spec, Memory(), {}, Pace(), float("-inf"), now, now, now)


def live_day(life: Life, counts: dict[str, Ints]) -> tuple[Life, int | None]:
    """The detector after a day, given as counts per minute, and the minute of the first alarm."""
    minute = 0
    while minute < MINUTES:
        end = min(MINUTES, minute + 60 - minute % 60)
        life, done, alarm = _live_hour(life, {s: table[minute:end] for s, table in counts.items()})
        if alarm:
            return life, minute + done - 1
        minute += done
    return life, None


def _live_hour(life: Life, counts: dict[str, Ints]) -> tuple[Life, int, bool]:
    """The detector after as many windows of one hour as have the same references, their number, and the alarm."""
    limit = life.limit
    status = DriftStatus(since=timestamp(life.since))
    middle = life.now + timedelta(seconds=SECONDS / 2)
    memory = entered(life.memory, middle, life.collecting or learns(status, life.now, life.evidence, limit))
    requests = np.max([counts[s].sum(axis=1) for s in SIGNALS], axis=0)
    since = life.since
    if life.collecting and not rows(seen(memory)) and not requests[0]:
        since = life.now + timedelta(seconds=SECONDS)  # hours without traffic do not count
        requests, counts = requests[:1], {s: table[:1] for s, table in counts.items()}
    paces = [life.pace]
    for number in requests:
        paces.append(advance(paces[-1], float(number), SECONDS))
    expected = np.array([expected_requests(p, float(n), SECONDS) for p, n in zip(paces, requests, strict=False)])
    weights = np.array([start_weight(p.rate) for p in paces[:-1]])

    state = _run(life, references(memory, middle, life.collecting), counts, expected, weights)
    evidence = _evidence(state, len(requests))
    learned = _learnable(memory, counts, expected)
    done, rested, alarm, complete, full = _end(life, memory, learned, evidence, since)

    memory = counted(memory, {s: tuple(table[:done].sum(axis=0).tolist()) for s, table in learned.items()})
    if complete or full:
        memory = closed(memory, learn=True)
    after = replace(
        life,
        memory=memory,
        state={s: values[done - 1] for s, values in state.items()} if state else life.state,
        pace=paces[done],
        evidence=float(evidence[done - 1]),
        now=life.now + timedelta(seconds=SECONDS * done),
        since=since,
        rested=rested,
        collecting=life.collecting and not complete,
    )
    return after, done, alarm


def _run(
    life: Life,
    compared: dict[str, Reference],
    counts: dict[str, Ints],
    expected: Floats,
    weights: Floats,
) -> State:
    """ln R of each bet after each window, of shape (windows, bets), as `detector.update` gives it.

    Ends with the first window in which a bet reaches the ceiling.
    """
    state, cap = {}, ceiling(life.limit, alarm=False)
    for signal in WATCHED:
        before = life.state.get(signal)
        reference = compared.get(signal)
        if reference is None or signal not in counts or len(reference.masses) != counts[signal].shape[1]:
            if before is not None:
                state[signal] = np.repeat(before[None], len(weights), axis=0)
            continue
        table = np.array(bets(signal, reference, life.spec.tolerance))
        if before is None or len(before) != len(table):
            before = np.full(len(table), -np.inf)
        most = independent_limit(expected[:, None] * np.array(smoothed(reference))[None])  # type: ignore[arg-type]
        found = counts[signal].astype(np.float64)
        gains = np.minimum(found, most) @ table.clip(min=0).T + found @ table.clip(max=0).T
        number = found.sum(axis=1)
        gains[number == 0] = 0.0
        with np.errstate(divide="ignore"):
            started = np.log(number * weights)
        total = gains.cumsum(axis=0)
        begun = started[:, None] - (total - gains)
        state[signal] = total + np.logaddexp.accumulate(np.vstack([before[None], begun]), axis=0)[1:]
    reached = [np.flatnonzero((values >= cap).any(axis=1)) for values in state.values()]
    windows = min((int(found[0]) + 1 for found in reached if len(found)), default=len(weights))
    return {signal: np.minimum(values[:windows], cap) for signal, values in state.items()}


def _evidence(state: State, windows: int) -> Floats:
    """`log_evidence` after each window."""
    windows = min((len(values) for values in state.values()), default=windows)
    watched = averaged(state)
    parts = np.full((windows, len(watched)), -np.inf)
    for column, signal in enumerate(watched):
        if signal in state:
            parts[:, column] = np.logaddexp.reduce(state[signal], axis=1) - np.log(state[signal].shape[1])
    return np.asarray(np.logaddexp.reduce(parts, axis=1) - np.log(len(watched)))


def _learnable(memory: Memory, counts: dict[str, Ints], expected: Floats) -> dict[str, Ints]:
    """`limited` counts per window."""
    learned = {}
    for signal, table in counts.items():
        normal = memory.normals.get(signal)
        if normal is None or not normal.rows:
            lines = [limited(line, (), float(e)) for line, e in zip(table.tolist(), expected, strict=True)]
            learned[signal] = np.array(lines)
        else:
            masses = np.array(smoothed(Reference(normal.rows, tuple(c / normal.rows for c in normal.counts))))
            most = independent_limit(expected[:, None] * masses[None])  # type: ignore[arg-type]
            learned[signal] = np.rint(np.minimum(table, most)).astype(np.int64)
    return learned


def _end(
    life: Life, memory: Memory, learned: dict[str, Ints], evidence: Floats, since: datetime
) -> tuple[int, datetime, bool, bool, bool]:
    """The windows until the references change, when the evidence was last at rest by then, and why the windows end:
    alarm, baseline complete, block as large as the baseline."""
    windows, limit = len(evidence), life.limit
    table = np.max([learned[s][:windows].sum(axis=1) for s in SIGNALS], axis=0)
    block, known_rows = rows(memory.block) + table.cumsum(), rows(known(memory))
    times = [life.now + timedelta(seconds=SECONDS * (n + 1)) for n in range(windows)]
    status = DriftStatus(since=timestamp(since))
    old_enough = [(t - since).total_seconds() >= 3600 * life.spec.baseline_minimum_hours for t in times]
    rested = life.rested
    for number, now in enumerate(times):
        calm = bool(evidence[number] <= limit / 3)
        rested = now if calm else rested
        alarm = is_alarm(float(evidence[number]), limit, rested, now, life.spec)
        enough = block[number] + known_rows >= life.spec.baseline_requests
        complete = bool(life.collecting and old_enough[number] and enough)
        full = bool(block[number] >= max(1, known_rows)) and not life.collecting and calm
        full = full and learns(status, now, float(evidence[number]), limit)
        if alarm or complete or full:
            return number + 1, rested, alarm, complete, full
    return windows, rested, False, False, False
