"""How fast a client's long bodies come in: reading and tokenising one costs all answers time, and its sender none.

A token bucket per client. What it lets pass is more than any engine reads: at four bytes per token 1 MiB/s are 260,000
tokens per second from one client to one pod.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

BYTES_PER_SECOND = 1 << 20
BURST = 4 << 20  # bytes
LONGEST = 2.0  # seconds that a body waits at most
_CLIENTS = 1024  # that are remembered


class Pace:
    """Tells for how long a body is to wait; who waits for an answer, or leaves before, costs the others nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paid: OrderedDict[str, float] = OrderedDict()  # client -> when all that it sent is paid for

    def delay(self, client: str, size: int) -> float:
        """Seconds for which a body of `size` bytes is to wait."""
        now = self._clock()
        known = self._paid.pop(client, 0.0)
        self._paid[client] = min(max(known, now - BURST / BYTES_PER_SECOND) + size / BYTES_PER_SECOND, now + LONGEST)
        if len(self._paid) > _CLIENTS:
            self._paid.popitem(last=False)
        return max(0.0, self._paid[client] - now)
