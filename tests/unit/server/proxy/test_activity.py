"""How busy a pod says that it is."""

import pytest

from driftloop.contract.activity import Activity
from driftloop_server.proxy.activity import Busy


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_pod_is_idle_since_its_start_or_since_the_end_of_its_last_answer() -> None:
    clock = Clock()
    busy = Busy(clock)
    clock.now += 7
    assert busy.activity == Activity(running=0, idle_seconds=7)
    with busy.running():
        clock.now += 100
        assert busy.activity == Activity(running=1, idle_seconds=0)
    clock.now += 3
    assert busy.activity == Activity(running=0, idle_seconds=3)


def test_a_pod_is_not_idle_while_its_engine_starts() -> None:
    """A model that loads for longer than idleSeconds was taken away as soon as it was there."""
    clock = Clock()
    busy = Busy(clock)
    clock.now += 700
    busy.begin()
    clock.now += 2
    assert busy.activity == Activity(running=0, idle_seconds=2)


def test_a_door_without_a_request_says_so_after_any_time() -> None:
    clock = Clock()
    busy = Busy(clock, since_start=False)
    clock.now += 50
    assert busy.activity == Activity(running=0)
    with busy.running(), busy.holding():
        assert busy.activity == Activity(running=1, held=1, idle_seconds=0)


def test_an_answer_that_fails_counts_too() -> None:
    clock = Clock()
    busy = Busy(clock)
    clock.now += 9
    with pytest.raises(ValueError, match="broken"), busy.running(), busy.holding():
        raise ValueError("broken")
    assert busy.activity == Activity(running=0, idle_seconds=0)
