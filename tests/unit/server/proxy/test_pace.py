"""What a client sends beyond its rate waits for what it sent before, and for nothing of anybody else."""

import pytest

from driftloop_server.proxy.bodies import MAX_BODY
from driftloop_server.proxy.pace import BODIES, REFUSALS, Pace, Rate

RATE = Rate(per_second=8, burst=32, longest=2.0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_a_client_sends_now_and_then_waits_for_nothing() -> None:
    clock = Clock()
    pace = Pace(RATE, clock)
    for _ in range(10):
        assert pace.delay("a", RATE.burst) == 0
        clock.now += RATE.burst / RATE.per_second


def test_beyond_the_burst_bodies_wait_for_those_before_them() -> None:
    pace = Pace(RATE, Clock())
    pace.delay("a", RATE.burst)
    assert [pace.delay("a", RATE.per_second / 2) for _ in range(3)] == pytest.approx([0.5, 1.0, 1.5])


def test_no_client_waits_for_another() -> None:
    pace = Pace(RATE, Clock())
    for _ in range(9):
        pace.delay("a", RATE.burst)
    assert pace.delay("b", RATE.burst) == 0


def test_none_waits_for_longer_than_a_client_can_bear() -> None:
    pace = Pace(RATE, Clock())
    assert max(pace.delay("a", RATE.burst) for _ in range(100)) == RATE.longest


def test_time_that_passes_is_given_back_and_no_more_than_a_burst() -> None:
    clock = Clock()
    pace = Pace(RATE, clock)
    pace.delay("a", 2 * RATE.burst)
    clock.now += 3600
    assert pace.delay("a", RATE.burst) == 0
    assert pace.delay("a", RATE.per_second) == pytest.approx(1)


def test_clients_without_number_cost_no_memory_without_bound() -> None:
    pace = Pace(RATE, Clock())
    for number in range(5000):
        pace.delay(str(number), 1)
    assert len(pace._paid) <= 1024


def test_a_refused_request_or_two_in_a_second_are_not_slowed_down() -> None:
    clock = Clock()
    pace = Pace(REFUSALS, clock)
    for _ in range(1000):
        assert pace.delay("a") == 0
        clock.now += 0.5


def test_a_body_as_long_as_the_door_lets_in_is_read_at_once_if_it_is_the_first() -> None:
    assert Pace(BODIES, Clock()).delay("a", MAX_BODY) == 0
