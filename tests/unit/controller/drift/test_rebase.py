"""An alarm is answered by a version that has shown a gain, and by no other."""

import pytest

from driftloop.api.inferenceservice import DriftStatus, ReferenceSignal
from driftloop.controller.drift.rebase import hand_over

BASELINE = [ReferenceSignal(signal="length", counts=[200, 100])]
ALARM = DriftStatus(
    version="v1",
    consumed_until="2026-01-01T00:00:00Z",
    evidence={"length": "16.0000"},
    log_evidence="16.0000",
    baseline=BASELINE,
    first_baseline=BASELINE,
    alarm=True,
    change_point="2025-12-31T00:00:00Z",
    shift={"length": "1.2"},
    message="drift: length rose",
)


def test_a_version_that_has_shown_a_gain_starts_anew_and_keeps_the_first_baseline() -> None:
    assert hand_over(ALARM, "v2", gained=True) == DriftStatus(first_baseline=BASELINE)


def test_a_version_without_one_keeps_alarm_evidence_and_baseline() -> None:
    held = hand_over(ALARM, "v2", gained=False)
    told = {"version", "held_from", "message"}
    assert held.model_dump(exclude=told) == ALARM.model_dump(exclude=told)
    assert (held.version, held.held_from) == ("v2", "v1")
    assert held.message == (
        "drift: length rose by 1.20 standard deviations since 2025-12-31T00:00:00Z; "
        "the alarm of v1 is held: v2 has not shown a gain on a target suite"
    )
    assert hand_over(held, "v2", gained=False) == held


def test_it_stands_through_any_number_of_such_versions_until_one_has() -> None:
    held = hand_over(hand_over(ALARM, "v2", gained=False), "v3", gained=False)
    assert (held.version, held.held_from, held.alarm) == ("v3", "v1", True)
    assert not hand_over(held, "v4", gained=True).alarm


def test_a_gain_that_is_known_later_counts() -> None:
    """The version's status was lost when it was promoted, and came back with its gates."""
    held = hand_over(ALARM, "v2", gained=False)
    assert hand_over(held, "v2", gained=True) == DriftStatus(first_baseline=BASELINE)


def test_the_version_that_the_evidence_is_about_is_watched_on_when_it_is_back() -> None:
    back = hand_over(hand_over(ALARM, "v2", gained=False), "v1", gained=False)
    assert (back.version, back.held_from, back.alarm, back.baseline) == ("v1", None, True, BASELINE)


@pytest.mark.parametrize("gained", [False, True])
def test_while_nothing_changes_nothing_is_touched(gained: bool) -> None:
    assert hand_over(ALARM, "v1", gained) == ALARM
    assert hand_over(DriftStatus(), "v1", gained) == DriftStatus()


def test_without_an_alarm_the_next_version_collects_its_own_baseline() -> None:
    """Its bins are its own; `watch` starts anew where the version differs."""
    calm = ALARM.model_copy(update={"alarm": False})
    assert hand_over(calm, "v2", gained=False) == calm
