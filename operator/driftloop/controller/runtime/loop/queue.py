"""The work queue: a key is queued once, processed by one worker at a time, and queued again after a failure.

`KeyQueue` is the state machine, which gets the time as an argument. `WorkQueue` adds waiting. Not thread-safe.
"""

import asyncio
import heapq
import random
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class KeyQueue(Generic[K]):
    """A first-in, first-out queue of distinct keys, which also holds keys that are due later.

    - A key that is added while it waits is not queued twice. If it is added while it is processed, it is queued again
      afterwards.
    - A key has at most one due time: the earliest. An event makes a key due immediately, even during a back-off.
    """

    def __init__(self) -> None:
        self._ready: dict[K, None] = {}  # used as an ordered set
        self._working: set[K] = set()
        self._dirty: set[K] = set()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0  # breaks ties in the heap, as keys can't be compared

    def __len__(self) -> int:
        """Number of keys that are due now."""
        return len(self._ready) + len(self._dirty)

    def add(self, key: K) -> None:
        """Make `key` due now."""
        self._due.pop(key, None)
        if key in self._working:
            self._dirty.add(key)
        else:
            self._ready.setdefault(key)

    def add_at(self, key: K, when: float) -> None:
        """Make `key` due at `when`, unless it is already queued or due earlier."""
        if key in self._ready or key in self._dirty or self._due.get(key, when + 1) <= when:
            return
        self._due[key] = when
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, key))

    def pop(self, now: float) -> K | None:
        """Take the next key; None if no key is due. The key counts as processed until `done`."""
        self._promote(now)
        if not self._ready:
            return None
        key = next(iter(self._ready))
        del self._ready[key]
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """End the processing of `key`. It is queued again if it was added meanwhile."""
        self._working.discard(key)
        if key in self._dirty:
            self._dirty.discard(key)
            self._ready.setdefault(key)

    def next_due(self) -> float | None:
        """When the next key becomes due; None if no key is held."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def _promote(self, now: float) -> None:
        while (due := self.next_due()) is not None and due <= now:
            self.add(heapq.heappop(self._heap)[2])

    def _drop_stale(self) -> None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)


class Backoff(Generic[K]):
    """Exponential back-off per key: `base` seconds, doubled with each failure up to `cap`, minus a random part.

    The random part is up to half of the time, so that objects that failed together are not retried together. As it is
    subtracted, `cap` is never exceeded.
    """

    def __init__(self, base: float = 0.5, cap: float = 300.0, rng: Callable[[], float] = random.random) -> None:
        self._base, self._cap, self._rng = base, cap, rng
        self._failures: dict[K, int] = {}

    def next(self, key: K) -> float:
        """Count one more failure of `key`. Returns the seconds to wait."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self._cap, self._base * 2.0 ** min(failures, 30))
        return delay * (1 - self._rng() / 2)

    def reset(self, key: K) -> None:
        """Forget the failures of `key`."""
        self._failures.pop(key, None)


class WorkQueue(Generic[K]):
    """A KeyQueue on which the workers of one event loop can wait."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._keys: KeyQueue[K] = KeyQueue()
        self._clock = clock
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: K, after: float = 0.0) -> None:
        """Queue `key` now, or after `after` seconds."""
        if after > 0:
            self._keys.add_at(key, self._clock() + after)
        else:
            self._keys.add(key)
        self._changed.set()

    async def get(self) -> K:
        """Wait for the next key. The caller must call `done` afterwards."""
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
        """End the processing of `key`."""
        self._keys.done(key)
        self._changed.set()
