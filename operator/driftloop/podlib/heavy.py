"""Load large objects that are never freed, such as torch and a model."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Exclude all objects that are created inside the block from Python's garbage collection, for ever.

    Loading creates a million objects and no garbage. Without this, collection took a fifth of the CPU time of an
    engine's start (1.7 of 8.9 s), and later each full collection stopped all answers for 0.3 to 0.4 s.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
