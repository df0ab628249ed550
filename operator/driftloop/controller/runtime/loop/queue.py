"""The work queue: a key is queued once, worked on once at a time, and comes back later after a failure.

`KeyQueue` is the state machine, with time passed in; `WorkQueue` waits for it on an event loop. Not thread-safe.
"""

import asyncio
import heapq
import random
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class KeyQueue(Generic[K]):
    """Deduplicates keys, orders them first in, first out, and holds those that are due later.

    - A key that is added while it waits is not added twice; while it is worked on, it is queued again afterwards.
    - A key has one due time at most, the earliest asked for; what comes by an event is due at once, back-off or not.
    """

    def __init__(self) -> None:
        self._ready: dict[K, None] = {}  # ordered
        self._working: set[K] = set()
        self._dirty: set[K] = set()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0  # keys need no order among themselves

    def __len__(self) -> int:
        """Keys that wait to be worked on now."""
        return len(self._ready) + len(self._dirty)

    def add(self, key: K) -> None:
        """Due now."""
        self._due.pop(key, None)
        if key in self._working:
            self._dirty.add(key)
        else:
            self._ready.setdefault(key)

    def add_at(self, key: K, when: float) -> None:
        """Due at `when`, unless it is queued already or due before."""
        if key in self._ready or key in self._dirty or self._due.get(key, when + 1) <= when:
            return
        self._due[key] = when
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, key))

    def pop(self, now: float) -> K | None:
        """The next key, which is then worked on until `done`; None when there is none at `now`."""
        self._promote(now)
        if not self._ready:
            return None
        key = next(iter(self._ready))
        del self._ready[key]
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """The work on `key` has ended; it is queued again when it was added meanwhile."""
        self._working.discard(key)
        if key in self._dirty:
            self._dirty.discard(key)
            self._ready.setdefault(key)

    def next_due(self) -> float | None:
        """When the next held key is due."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def _promote(self, now: float) -> None:
        while (due := self.next_due()) is not None and due <= now:
            self.add(heapq.heappop(self._heap)[2])

    def _drop_stale(self) -> None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)


class Backoff(Generic[K]):
    """Exponential back-off a key: `base` seconds, doubled each time up to `cap`, less up to half of it by chance.

    The jitter goes downwards, so that objects that failed together don't come back together, and `cap` is a cap.
    """

    def __init__(self, base: float = 0.5, cap: float = 300.0, rng: Callable[[], float] = random.random) -> None:
        self._base, self._cap, self._rng = base, cap, rng
        self._failures: dict[K, int] = {}

    def next(self, key: K) -> float:
        """Seconds to wait after one more failure of `key`."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self._cap, self._base * 2.0 ** min(failures, 30))
        return delay * (1 - self._rng() / 2)

    def reset(self, key: K) -> None:
        """`key` succeeded, or is gone."""
        self._failures.pop(key, None)


class WorkQueue(Generic[K]):
    """A KeyQueue that workers of one event loop wait on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._keys: KeyQueue[K] = KeyQueue()
        self._clock = clock
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: K, after: float = 0.0) -> None:
        """Queue `key` now, or `after` seconds."""
        if after > 0:
            self._keys.add_at(key, self._clock() + after)
        else:
            self._keys.add(key)
        self._changed.set()

    async def get(self) -> K:
        """Wait for a key; `done` must follow."""
        while (key := self._keys.pop(self._clock())) is None:
            self._changed.clear()
            due = self._keys.next_due()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return key

    def done(self, key: K) -> None:
        """The work on `key` has ended."""
        self._keys.done(key)
        self._changed.set()
