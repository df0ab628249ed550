"""How fast refused long bodies may come: reading one costs everybody's answers time, and its sender nothing."""

import time
from collections.abc import Callable

BYTES_PER_SECOND = 4 << 20
LONGEST = 2.0  # seconds that a refusal waits at most


class Pace:
    """Spreads the refusals of long bodies over time, whoever sent them: who waits for an answer sends nothing more."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._free_at = clock()

    def delay(self, size: int) -> float:
        """Seconds for which the refusal of a body of `size` bytes is to wait."""
        now = self._clock()
        self._free_at = min(max(self._free_at, now) + size / BYTES_PER_SECOND, now + LONGEST)
        return self._free_at - now
