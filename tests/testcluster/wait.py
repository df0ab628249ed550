"""Waiting with a timeout."""

import time
from collections.abc import Callable
from typing import TypeVar

from testcluster.console import Error

T = TypeVar("T")


def until(check: Callable[[], T], what: str, seconds: float, every: float = 0.1) -> T:
    """Call `check` until its result is true, and return the result. After `seconds` raises Error that names `what`."""
    end = time.monotonic() + seconds
    while True:
        if result := check():
            return result
        if time.monotonic() > end:
            raise Error(f"timed out after {seconds:.0f} s: {what}")
        time.sleep(every)
