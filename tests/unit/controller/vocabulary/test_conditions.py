"""Conditions follow kstatus, keep the time of their last change, and are worth an Event when their reason changes."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from driftloop.controller.vocabulary.conditions import (
    complete,
    failed,
    find,
    is_true,
    merge,
    parse_timestamp,
    progressing,
    ready,
    shorten,
    stalled,
    timestamp,
    transition,
)
from driftloop.controller.vocabulary.plan import Obj

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def types(found: list[Obj]) -> dict[str, str]:
    return {entry["type"]: entry["status"] for entry in found}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (progressing("Training", "m"), {"Ready": "False", "Reconciling": "True"}),
        (stalled("ClaimNotFound", "m"), {"Ready": "False", "Stalled": "True"}),
        (ready("Approved", "m"), {"Ready": "True"}),
        (failed("DoesNotFit", "m"), {"Ready": "False", "Stalled": "True", "Failed": "True"}),
        (complete("Succeeded", "m"), {"Ready": "True", "Complete": "True"}),
    ],
)
def test_abnormal_conditions_are_absent_when_false(made: list[object], expected: dict[str, str]) -> None:
    assert types(merge([], made, 1, NOW)) == expected  # type: ignore[arg-type]


def test_the_time_changes_with_the_status_alone() -> None:
    first = merge([], progressing("Preparing", "a"), 1, NOW)
    same = merge(first, progressing("Training", "b"), 2, LATER)
    done = merge(same, ready("Approved", "c"), 2, LATER)
    assert {entry["lastTransitionTime"] for entry in same} == {timestamp(NOW)}
    assert [(entry["type"], entry["lastTransitionTime"]) for entry in done] == [("Ready", timestamp(LATER))]
    assert {entry["observedGeneration"] for entry in same} == {2}


def test_an_unchanged_condition_is_written_the_same() -> None:
    first = merge([], stalled("ClaimNotFound", "a"), 1, NOW)
    assert merge(first, stalled("ClaimNotFound", "a"), 1, LATER) == first


@pytest.mark.parametrize(
    ("made", "type_"),
    [(progressing("Training", "m"), "Normal"), (failed("DoesNotFit", "m"), "Warning"), (ready("Ok", "m"), "Normal")],
)
def test_a_new_reason_is_an_event_once(made: list[object], type_: str) -> None:
    (event,) = transition([], made)  # type: ignore[arg-type]
    assert (event.type, event.message) == (type_, "m")
    assert transition(merge([], made, 1, NOW), made) == ()  # type: ignore[arg-type]


def test_unknown_is_not_true() -> None:
    assert not is_true([{"type": "Ready", "status": "Unknown"}], "Ready")
    assert not is_true([], "Ready")
    assert find([], "Ready") is None


def test_a_message_of_any_length_is_taken() -> None:
    (entry,) = merge([], ready("Ok", "x" * 10_000), 1, NOW)
    assert len(entry["message"]) == 2048
    assert shorten("short") == "short"


def test_times_are_utc_and_read_back() -> None:
    local = datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(local) == "2026-01-01T12:00:00Z"
    assert parse_timestamp(timestamp(local)) == NOW
    assert parse_timestamp("2026-01-01T12:00:00.000000Z") == NOW
