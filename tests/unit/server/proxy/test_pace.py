"""A client's long bodies wait for each other, and for nobody else's."""

import pytest

from driftloop_server.proxy.pace import BURST, BYTES_PER_SECOND, LONGEST, Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_a_client_sends_now_and_then_waits_for_nothing() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(10):
        assert pace.delay("a", BURST) == 0
        clock.now += BURST / BYTES_PER_SECOND


def test_beyond_the_burst_bodies_wait_for_those_before_them() -> None:
    pace = Pace(Clock())
    pace.delay("a", BURST)
    assert [pace.delay("a", BYTES_PER_SECOND // 2) for _ in range(3)] == pytest.approx([0.5, 1.0, 1.5])


def test_no_client_waits_for_another() -> None:
    pace = Pace(Clock())
    for _ in range(9):
        pace.delay("a", BURST)
    assert pace.delay("b", BURST) == 0


def test_none_waits_for_longer_than_a_client_can_bear() -> None:
    pace = Pace(Clock())
    assert max(pace.delay("a", BURST) for _ in range(100)) == LONGEST


def test_time_that_passes_is_given_back_and_no_more_than_a_burst() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.delay("a", 2 * BURST)
    clock.now += 3600
    assert pace.delay("a", BURST) == 0
    assert pace.delay("a", BYTES_PER_SECOND) == pytest.approx(1)


def test_clients_without_number_cost_no_memory_without_bound() -> None:
    pace = Pace(Clock())
    for number in range(5000):
        pace.delay(str(number), 1)
    assert len(pace._paid) <= 1024
