"""When a service sleeps and wakes. What is unknown is never idle, and a request is never left waiting."""

from dataclasses import replace
from datetime import timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.activity import Activity
from driftloop.controller.kinds.inferenceservice.idle import (
    LOOK_SECONDS,
    SETTLE,
    UNHEARD,
    Facts,
    Requests,
    State,
    is_silent,
    next_look,
    next_state,
    obstacle,
)
from unit.controller.kinds.inferenceservice.builders import NOW, ago

IDLE = 600
QUIET = Activity(running=0, idle_seconds=IDLE)
EMPTY = Activity(running=0)  # a door to which no request has come
HOLDS = Activity(running=1, held=1, idle_seconds=0)


def facts(state: State, seconds: float = 100, **changes: object) -> Facts:
    """A service with two idle pods, whose state began so many seconds ago."""
    found = Facts(
        state=state,
        since=ago(seconds),
        now=NOW,
        idle_seconds=IDLE,
        undisturbed=True,
        wanted=2,
        available=0 if state in ("Asleep", "Waking") else 2,
        requests=Requests((QUIET, QUIET), (EMPTY,)),
        door_ready=True,
        at_door=True,
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def said(*pods: Activity | None, doors: tuple[Activity | None, ...] = (EMPTY,)) -> Requests:
    return Requests(pods, doors)


def test_an_idle_service_closes_then_sleeps_and_wakes_for_a_request_until_a_pod_is_there() -> None:
    assert next_state(facts("Awake", at_door=False)) == "Closing"
    assert next_state(facts("Closing", 1, at_door=False)) == "Closing"
    assert next_state(facts("Closing", SETTLE.total_seconds())) == "Asleep"
    assert next_state(facts("Asleep", requests=said())) == "Asleep"
    assert next_state(facts("Asleep", requests=said(doors=(HOLDS,)))) == "Waking"
    assert next_state(facts("Waking", requests=Requests())) == "Waking"
    assert next_state(facts("Waking", available=1, requests=Requests())) == "Awake"


@pytest.mark.parametrize("state", ["Awake", "Closing"])
@pytest.mark.parametrize(
    "changes",
    [
        {"requests": said(QUIET, None)},
        {"requests": said(QUIET)},
        {"requests": said()},
        {"requests": said(QUIET, Activity(running=1, idle_seconds=0))},
        {"requests": said(QUIET, Activity(running=0, idle_seconds=IDLE - 1))},
        {"requests": said(QUIET, Activity(running=0))},
        {"requests": said(QUIET, QUIET, doors=())},
        {"requests": said(QUIET, QUIET, doors=(None,))},
        {"door_ready": False},
        {"undisturbed": False},
        {"idle_seconds": None},
    ],
    ids=str,
)
def test_a_service_that_is_used_or_of_which_something_is_unknown_stays_awake(state: State, changes: object) -> None:
    assert next_state(facts(state, **changes)) == "Awake"  # type: ignore[arg-type]


def test_a_request_that_comes_while_the_service_closes_opens_it_again() -> None:
    for door in (HOLDS, Activity(running=1, idle_seconds=0), Activity(running=0, idle_seconds=3)):
        assert next_state(facts("Closing", 5, requests=said(QUIET, QUIET, doors=(door,)))) == "Awake"
    earlier = Activity(running=0, idle_seconds=7)  # before it closed
    assert next_state(facts("Closing", 5, requests=said(QUIET, QUIET, doors=(earlier,)))) == "Asleep"


def test_a_service_whose_door_had_a_request_lately_does_not_close() -> None:
    """Its pods may have started too late for the request, which comes again."""
    late = Activity(running=0, idle_seconds=IDLE - 1)
    assert next_state(facts("Awake", requests=said(QUIET, QUIET, doors=(late,)))) == "Awake"
    long_ago = Activity(running=0, idle_seconds=IDLE)
    assert next_state(facts("Awake", requests=said(QUIET, QUIET, doors=(EMPTY, long_ago)))) == "Closing"


def test_a_service_that_can_not_wake_makes_way_for_another_revision() -> None:
    assert next_state(facts("Waking", requests=Requests(), undisturbed=False)) == "Waking"
    assert next_state(facts("Waking", requests=Requests(), undisturbed=False, given_up=True)) == "Awake"


def test_a_request_that_has_left_again_wakes_too_and_so_does_one_at_a_door_that_stops() -> None:
    left = Activity(running=0, idle_seconds=50)
    assert next_state(facts("Asleep", 100, requests=said(doors=(left,)))) == "Waking"
    assert next_state(facts("Asleep", 40, requests=said(doors=(left,)))) == "Asleep"
    assert next_state(facts("Asleep", requests=said(doors=(EMPTY, HOLDS)))) == "Waking"


def test_a_door_that_does_not_answer_wakes_the_service_after_a_while() -> None:
    seconds = UNHEARD.total_seconds()
    silent = facts("Asleep", requests=said(doors=(None,)))
    assert next_state(replace(silent, unheard_since=ago(seconds - 1))) == "Asleep"
    assert next_state(replace(silent, unheard_since=ago(seconds))) == "Waking"
    assert next_state(replace(silent, requests=said(doors=()), unheard_since=ago(seconds))) == "Waking"


def test_without_the_setting_a_sleeping_service_wakes_and_no_pod_is_awaited_where_none_is_wanted() -> None:
    assert next_state(facts("Asleep", idle_seconds=None)) == "Waking"
    assert next_state(facts("Waking", wanted=0)) == "Awake"


def test_the_pods_are_looked_at_when_they_can_have_been_idle_for_long_enough() -> None:
    some = Activity(running=0, idle_seconds=100)
    assert next_look(facts("Awake", requests=said(QUIET, some))) == IDLE - 100
    assert next_look(facts("Awake", requests=said(QUIET, Activity(running=3, idle_seconds=0)))) == IDLE
    assert next_look(facts("Awake", requests=said(None, None))) == IDLE
    assert next_look(facts("Awake", door_ready=False)) == LOOK_SECONDS


def test_what_keeps_an_idle_service_awake_is_named() -> None:
    assert obstacle(facts("Awake")) is None
    assert obstacle(facts("Awake", requests=said(QUIET, Activity(running=1, idle_seconds=0)))) is None
    assert "earlier release" in (obstacle(facts("Awake", requests=said(QUIET, None))) or "")
    for changes in ({"door_ready": False}, {"requests": said(QUIET, QUIET, doors=(None,))}):
        assert "its door is not ready" in (obstacle(facts("Awake", **changes)) or "")


activities = st.builds(
    lambda running, held, idle: Activity(
        running=running, held=min(held, running), idle_seconds=0.0 if running else idle
    ),
    st.integers(0, 2),
    st.integers(0, 2),
    st.none() | st.floats(0, 2 * IDLE),
)
any_facts = st.builds(
    Facts,
    state=st.sampled_from(get_args(State)),
    since=st.floats(0, 2 * IDLE).map(ago),
    now=st.just(NOW),
    idle_seconds=st.none() | st.sampled_from([10, IDLE]),
    undisturbed=st.booleans(),
    wanted=st.integers(0, 3),
    available=st.integers(0, 3),
    requests=st.builds(
        Requests, st.lists(st.none() | activities, max_size=3), st.lists(st.none() | activities, max_size=2)
    ),
    door_ready=st.booleans(),
    at_door=st.booleans(),
    unheard_since=st.none() | st.floats(0, 200).map(ago),
)


@given(any_facts)
def test_pods_are_taken_away_only_if_all_are_known_to_be_idle_and_the_door_has_all_requests(found: Facts) -> None:
    if found.state == "Asleep" or next_state(found) != "Asleep":
        return
    assert found.state == "Closing"
    assert found.at_door
    assert found.door_ready
    assert found.now - found.since >= SETTLE
    pods = [pod for pod in found.requests.pods if pod is not None]
    assert len(pods) == len(found.requests.pods) >= max(1, found.wanted)
    assert found.idle_seconds is not None
    assert all(not pod.running and (pod.idle_seconds or 0) >= found.idle_seconds for pod in pods)
    assert all(door is not None and not door.held for door in found.requests.doors)


@given(any_facts)
def test_no_request_waits_at_the_door_of_a_service_that_stays_asleep(found: Facts) -> None:
    if found.state == next_state(found) == "Asleep":
        assert found.idle_seconds is not None
        assert not any(door is not None and door.running for door in found.requests.doors)
        if is_silent(found) and found.unheard_since is not None:
            assert found.now - found.unheard_since < UNHEARD


@given(any_facts)
def test_no_state_is_skipped(found: Facts) -> None:
    after = {"Awake": {"Closing"}, "Closing": {"Asleep", "Awake"}, "Asleep": {"Waking"}, "Waking": {"Awake"}}
    assert next_state(found) in {found.state, *after[found.state]}


@given(any_facts, st.timedeltas(timedelta(0), timedelta(days=1)))
def test_time_alone_never_takes_pods_away_from_a_service_that_is_used(found: Facts, later: timedelta) -> None:
    busy = replace(found, requests=Requests([*found.requests.pods, None], found.requests.doors), now=NOW + later)
    if found.state in ("Awake", "Closing"):
        assert next_state(busy) == "Awake"
