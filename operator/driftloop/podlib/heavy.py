"""Importing and loading what is large and stays, such as torch and a model."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Keep Python's garbage collector away from what is made meanwhile, now and later.

    It makes a million objects and no garbage. An engine's start spent a fifth of its CPU (1.7 of 8.9 s) on looking for
    some, and each full collection later stopped all answers for 0.3 to 0.4 s.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
