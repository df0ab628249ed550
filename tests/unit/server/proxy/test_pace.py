"""Long bodies that are refused are refused in their time."""

import pytest

from driftloop_server.proxy.pace import BYTES_PER_SECOND, LONGEST, Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_refusal_waits_as_long_as_its_body_may_take() -> None:
    assert Pace(Clock()).delay(BYTES_PER_SECOND // 4) == pytest.approx(0.25)


def test_refusals_wait_for_each_other_whoever_they_are_for() -> None:
    pace = Pace(Clock())
    assert [pace.delay(BYTES_PER_SECOND // 2) for _ in range(3)] == pytest.approx([0.5, 1.0, 1.5])


def test_none_waits_for_longer_than_a_client_can_bear() -> None:
    pace = Pace(Clock())
    assert max(pace.delay(BYTES_PER_SECOND) for _ in range(100)) == LONGEST


def test_time_that_passes_is_given_back() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.delay(BYTES_PER_SECOND)
    clock.now += 10
    assert pace.delay(BYTES_PER_SECOND // 4) == pytest.approx(0.25)
