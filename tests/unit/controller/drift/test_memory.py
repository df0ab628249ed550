from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.inferenceservice import DriftStatus, Learned, LearnedSignal, ReferenceSignal
from driftloop.controller.drift.detector import WATCHED
from driftloop.controller.drift.memory import (
    Memory,
    baseline,
    closed,
    counted,
    decode,
    encode,
    entered,
    remembered,
    rows,
    seen,
    stored,
)

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
windows = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 90)), max_size=60)


def lived(steps: list[tuple[int, int, int]], learn: bool = True) -> Memory:
    """After windows of so many requests in two bins, and so many minutes."""
    memory, now = Memory(), MONDAY
    for low, high, minutes in steps:
        memory = counted(entered(memory, now, learn), {"surprisal": (low, high)})
        now += timedelta(minutes=minutes)
    return memory


@given(windows)
def test_a_memory_is_read_from_the_status_as_it_was_written(steps: list[tuple[int, int, int]]) -> None:
    memory = lived(steps)
    status = DriftStatus(baseline=baseline(memory), learned=stored(memory))
    again = remembered(DriftStatus.model_validate(status.dump()))
    assert again.block_since == memory.block_since
    assert seen(again) == {name: counts for name, counts in seen(memory).items() if sum(counts) or counts}
    assert again.whole_day == memory.whole_day
    for name, normal in memory.normals.items():
        if normal.rows:
            assert (again.normals[name].hours, again.normals[name].weekdays) == (normal.hours, normal.weekdays)
            assert (again.normals[name].today, again.normals[name].previous) == (normal.today, normal.previous)


@given(windows)
def test_no_request_is_lost_or_learned_twice(steps: list[tuple[int, int, int]]) -> None:
    memory = lived(steps)
    assert rows(seen(memory)) == sum(low + high for low, high, _ in steps)
    assert rows(seen(closed(memory, learn=True))) == rows(seen(memory))


@given(windows)
def test_without_leave_nothing_is_learned(steps: list[tuple[int, int, int]]) -> None:
    assert not lived(steps, learn=False).normals


def test_the_first_day_is_whole_only_from_the_next_midnight() -> None:
    day = [(5, 5, 60)] * 24
    assert not any(lived(day + day[:1]).normals["surprisal"].weekdays)
    assert [sum(cell) for cell in lived(day * 2 + day[:1]).normals["surprisal"].weekdays] == [0, 240, 0, 0, 0, 0, 0]


def test_a_day_without_one_of_its_blocks_is_not_a_whole_day() -> None:
    memory = lived([(5, 5, 60)] * 30)
    memory = closed(memory, learn=False)
    for hour in range(31, 50):
        memory = counted(entered(memory, MONDAY + timedelta(hours=hour), learn=True), {"surprisal": (5, 5)})
    assert not any(memory.normals["surprisal"].weekdays)


def test_what_does_not_parse_was_never_seen() -> None:
    signal = LearnedSignal(
        signal="surprisal", block="1 x", hours="1 2|3", weekdays="?", spread="nan 1 1 1 1", today="-1 2"
    )
    status = DriftStatus(
        baseline=[ReferenceSignal(signal="surprisal", counts=[3, 4])], learned=Learned(signals=[signal])
    )
    memory = remembered(status)
    assert memory.block == {}
    normal = memory.normals["surprisal"]
    assert (normal.counts, any(normal.hours), any(normal.weekdays), normal.today) == ((3, 4), False, False, ())
    assert normal.spread.blocks == 0


@given(st.dictionaries(st.sampled_from(WATCHED), st.lists(st.floats(-50, 40), min_size=1, max_size=6)))
def test_evidence_is_read_as_it_was_written(state: dict[str, list[float]]) -> None:
    assert {s: pytest.approx(v, abs=1e-4) for s, v in state.items()} == decode(encode(state))


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=40), max_size=4))
def test_evidence_that_does_not_parse_starts_anew(evidence: dict[str, str]) -> None:
    assert set(decode(evidence)) <= set(WATCHED)
