"""What the next step needs, made on a thread during the current step."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(make: Callable[[int], T], steps: Iterable[int]) -> Generator[T, None, None]:
    """Yields `make(step)` for each of `steps`, in order, and makes one more ahead of the caller.

    What `make` raises is raised in place of its step. Closing the generator ends the thread (contextlib.closing).
    """
    with ThreadPoolExecutor(1, "prefetch") as thread:
        ready: Future[T] | None = None
        for step in steps:
            following = thread.submit(make, step)
            if ready is not None:
                yield ready.result()
            ready = following
        if ready is not None:
            yield ready.result()
