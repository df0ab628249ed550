"""Whether a service with scaleToZero is awake or asleep. Pure.

Awake  ->  Closing  ->  Asleep  ->  Waking  ->  Awake
              |                                   ^
              +-----------------------------------+

Closing: all requests go to the door, which passes them on while the pods run. So no request is lost between the last
look at the pods and their end. What is unknown is never idle: a pod that can't be asked keeps the service awake, and a
door that can't be asked wakes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, assert_never

from driftloop.contract.activity import Activity

State = Literal["Awake", "Closing", "Asleep", "Waking"]
# Until every node sends new connections to the door. Also a time in which a late request still stops it.
SETTLE = timedelta(seconds=5)
LOOK_SECONDS = 5.0  # shortest time between two looks at pods that may be idle
UNHEARD = timedelta(seconds=60)  # a door that moves to another node is back by then


@dataclass(frozen=True)
class Requests:
    """What the pods said of their requests; None: one that could not be asked."""

    pods: Sequence[Activity | None] = ()  # serving pods of stable, up to the first one that is not idle
    doors: Sequence[Activity | None] = ()  # also doors that stop, as they may hold requests


@dataclass(frozen=True)
class Facts:
    """What decides about the sleep of a service."""

    state: State  # as it is recorded
    since: datetime  # when this state began; without meaning for Awake
    now: datetime
    idle_seconds: int | None  # spec.scaleToZero.idleSeconds; None: the service is not to sleep
    undisturbed: bool  # whether only requests need the pods: no rollout, and no change of their number
    wanted: int  # pods while it is awake
    available: int  # pods that are available
    requests: Requests
    door_ready: bool  # whether a door is ready for requests, and can reach the pods
    at_door: bool  # whether the Service is seen to lead to the door
    unheard_since: datetime | None = None  # since when the door has not answered
    given_up: bool = False  # whether the pods are late, and another revision should serve: its rollout may begin


def next_state(facts: Facts) -> State:
    """The state that follows; often the same."""
    match facts.state:
        case "Awake":
            return "Closing" if _may_close(facts) and _doors_are_quiet(facts) else "Awake"
        case "Closing":
            if not _may_close(facts) or _is_wanted(facts):
                return "Awake"
            return "Asleep" if facts.at_door and facts.now - facts.since >= SETTLE else "Closing"
        case "Asleep":
            return "Waking" if _must_wake(facts) else "Asleep"
        case "Waking":
            return "Awake" if facts.available > 0 or facts.wanted == 0 or facts.given_up else "Waking"
        case never:
            assert_never(never)


def quiet_seconds(facts: Facts) -> float | None:
    """Seconds since the last request to any pod; None: unknown, or a request is running."""
    known = [pod for pod in facts.requests.pods if pod is not None and not pod.running and pod.idle_seconds is not None]
    if len(known) < max(1, facts.wanted, len(facts.requests.pods)):
        return None
    return min(pod.idle_seconds for pod in known if pod.idle_seconds is not None)


def obstacle(facts: Facts) -> str | None:
    """Why a service that may sleep can't; None: nothing is known to be in the way."""
    if None in facts.requests.pods:
        return "a pod does not say how busy it is: it belongs to an earlier release, or the operator can't reach it"
    quiet = quiet_seconds(facts)
    is_quiet = quiet is not None and facts.idle_seconds is not None and quiet >= facts.idle_seconds
    if is_quiet and (not facts.door_ready or is_silent(facts)):
        return "its door is not ready, or the Service by which the door reaches the pods belongs to another owner"
    return None


def next_look(facts: Facts) -> float:
    """Seconds until the pods can have been idle for long enough."""
    idle = facts.idle_seconds or 0
    known = [pod for pod in facts.requests.pods if pod is not None]
    if any(pod.running for pod in known):
        return max(LOOK_SECONDS, idle)
    quiet = min((pod.idle_seconds for pod in known if pod.idle_seconds is not None), default=0.0)
    return max(LOOK_SECONDS, idle - quiet)


def is_silent(facts: Facts) -> bool:
    """Whether no door, or not every one, has answered."""
    return not facts.requests.doors or None in facts.requests.doors


def _may_close(facts: Facts) -> bool:
    if facts.idle_seconds is None or not facts.undisturbed or not facts.door_ready or is_silent(facts):
        return False
    quiet = quiet_seconds(facts)
    return quiet is not None and quiet >= facts.idle_seconds


def _doors_are_quiet(facts: Facts) -> bool:
    """Whether no request was at a door for as long. Those that waited for pods that started too late may come back."""
    return all(
        door is not None and (door.idle_seconds is None or door.idle_seconds >= (facts.idle_seconds or 0))
        for door in facts.requests.doors
    )


def _must_wake(facts: Facts) -> bool:
    unheard = facts.unheard_since is not None and is_silent(facts) and facts.now - facts.unheard_since >= UNHEARD
    return facts.idle_seconds is None or unheard or _is_wanted(facts)


def _is_wanted(facts: Facts) -> bool:
    """Whether a request waits at a door, or came there since the state began, even if it has left again."""
    return any(
        door is not None and (door.held > 0 or door.running > 0 or _came_since(door, facts))
        for door in facts.requests.doors
    )


def _came_since(door: Activity, facts: Facts) -> bool:
    return door.idle_seconds is not None and facts.now - timedelta(seconds=door.idle_seconds) > facts.since
