"""When a refused write is repeated: each write has its own back-off.

A canary is reconciled every few seconds. A refused write beside it must not slow these reconciles down, and the
reconciles must not repeat the refused write more often.
"""

import random
import time
from collections.abc import Callable, Hashable, Set
from dataclasses import dataclass
from typing import assert_never

from driftloop.controller.runtime.kube.applied import digest
from driftloop.controller.runtime.loop.queue import Backoff
from driftloop.controller.vocabulary.plan import (
    Action,
    Adjust,
    Annotate,
    Apply,
    Create,
    Delete,
    Disrupt,
    FailPod,
    Key,
    Label,
    Obj,
)


@dataclass(frozen=True)
class _Refused:
    error: Exception
    attempts: int
    due: float


class Refusals:
    """The refused writes per object, and when each is due again. Kept in memory: a new leader tries immediately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, rng: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._backoff: Backoff[tuple[Key, Hashable]] = Backoff(rng=rng)
        self._refused: dict[Key, dict[Hashable, _Refused]] = {}

    def held(self, parent: Key, write: Hashable) -> Exception | None:
        """The last error of the write, if it is too early to repeat it; else None."""
        refused = self._refused.get(parent, {}).get(write)
        return refused.error if refused and self._clock() < refused.due else None

    def note(self, parent: Key, write: Hashable, error: Exception) -> int:
        """Record a refused write. Returns how many times it was refused by now."""
        previous = self._refused.setdefault(parent, {}).get(write)
        attempts = previous.attempts + 1 if previous else 1
        due = self._clock() + self._backoff.next((parent, write))
        self._refused[parent][write] = _Refused(error, attempts, due)
        return attempts

    def keep(self, parent: Key, writes: Set[Hashable]) -> None:
        """Forget the object's refused writes except `writes`: the others succeeded, or are not needed any more."""
        previous = self._refused.pop(parent, {})
        for write in previous.keys() - writes:
            self._backoff.reset((parent, write))
        if kept := {write: refused for write, refused in previous.items() if write in writes}:
            self._refused[parent] = kept

    def ask_again(self, parent: Key) -> float | None:
        """Seconds until the object's first refused write is due; None if nothing was refused."""
        dues = [refused.due for refused in self._refused.get(parent, {}).values()]
        return max(0.0, min(dues) - self._clock()) if dues else None


def identity(action: Action, parent: Obj, live: Obj | None) -> Hashable:
    """Identifies a write. With other content, or another version of the parent or of `live`, it is a different one.

    `live`: the object to write, as far as it is known.
    """
    metadata = parent["metadata"]
    match action:
        case Adjust(replicas=replicas, labels=labels):
            wanted: tuple[Hashable, ...] = (replicas, *sorted(labels.items()))
        case Apply(body):
            wanted = (digest(body),)
        case Create() | Delete() | Label() | Annotate() | FailPod() | Disrupt():
            wanted = ()
        case never:
            assert_never(never)
    version = live["metadata"].get("resourceVersion") if live else None
    return (metadata["uid"], metadata.get("generation"), type(action), target(action), wanted, version)


def target(action: Action) -> tuple[str, str, str]:
    """Kind, namespace and name of the object that an action writes."""
    match action:
        case Create(body) | Apply(body):
            return body["kind"], body["metadata"]["namespace"], body["metadata"]["name"]
        case Adjust():
            return "Deployment", action.namespace, action.name
        case FailPod() | Disrupt():
            return "Pod", action.namespace, action.name
        case Delete():
            return action.kind, action.namespace, action.name
        case Annotate():
            return "Job", action.namespace, action.name
        case Label():
            return action.key
        case never:
            assert_never(never)
