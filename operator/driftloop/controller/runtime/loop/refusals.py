"""When a write that was refused is asked for again: with a back-off of its own.

A canary is looked at every few seconds. A neighbour that is refused must make these looks no rarer, and the looks must
not make asks of it: each write has its own time, whatever comes between.
"""

import random
import time
from collections.abc import Callable, Hashable, Set
from dataclasses import dataclass

from driftloop.controller.runtime.loop.queue import Backoff
from driftloop.controller.vocabulary.plan import Action, Adjust, Apply, Create, Delete, FailPod, Key, Label, Obj


@dataclass(frozen=True)
class _Refused:
    error: Exception
    asks: int
    due: float


class Refusals:
    """What was refused of which object, and when it may be asked for again. In memory: a new leader asks at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, rng: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._backoff: Backoff[tuple[Key, Hashable]] = Backoff(rng=rng)
        self._refused: dict[Key, dict[Hashable, _Refused]] = {}

    def held(self, parent: Key, write: Hashable) -> Exception | None:
        """The answer to that write while it is too early to ask again."""
        found = self._refused.get(parent, {}).get(write)
        return found.error if found and self._clock() < found.due else None

    def note(self, parent: Key, write: Hashable, error: Exception) -> int:
        """It was refused; how many times by now."""
        before = self._refused.setdefault(parent, {}).get(write)
        asks = before.asks + 1 if before else 1
        due = self._clock() + self._backoff.next((parent, write))
        self._refused[parent][write] = _Refused(error, asks, due)
        return asks

    def keep(self, parent: Key, writes: Set[Hashable]) -> None:
        """Forget all of that object but these: the others were done, or nobody wants them any more."""
        before = self._refused.pop(parent, {})
        for write in before.keys() - writes:
            self._backoff.reset((parent, write))
        if kept := {write: refused for write, refused in before.items() if write in writes}:
            self._refused[parent] = kept

    def ask_again(self, parent: Key) -> float | None:
        """Seconds until the first of that object's writes may be asked for again; None: nothing is refused."""
        dues = [refused.due for refused in self._refused.get(parent, {}).values()]
        return max(0.0, min(dues) - self._clock()) if dues else None


def identity(action: Action, parent: Obj, live: Obj | None) -> Hashable:
    """By what a write is known. When the spec or the written object itself (`live`) has changed, it is another one."""
    metadata = parent["metadata"]
    wanted = (action.replicas, *sorted(action.labels.items())) if isinstance(action, Adjust) else ()
    version = live["metadata"].get("resourceVersion") if live else None
    return (metadata["uid"], metadata.get("generation"), type(action), target(action), wanted, version)


def target(action: Action) -> tuple[str, str, str]:
    """Kind, namespace and name of what an action writes."""
    match action:
        case Create(body) | Apply(body):
            return body["kind"], body["metadata"]["namespace"], body["metadata"]["name"]
        case Adjust():
            return "Deployment", action.namespace, action.name
        case FailPod():
            return "Pod", action.namespace, action.name
        case Delete():
            return action.kind, action.namespace, action.name
        case Label():
            return action.key
