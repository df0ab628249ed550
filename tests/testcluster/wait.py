"""Bounded waiting."""

import time
from collections.abc import Callable
from typing import TypeVar

from testcluster.console import Error

T = TypeVar("T")


def until(check: Callable[[], T], what: str, seconds: float, every: float = 0.1) -> T:
    """Call `check` until it returns something true, and return that; after `seconds` raise Error naming `what`."""
    end = time.monotonic() + seconds
    while True:
        if result := check():
            return result
        if time.monotonic() > end:
            raise Error(f"gave up after {seconds:.0f} s: {what}")
        time.sleep(every)
