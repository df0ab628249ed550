"""Limits the rate of a client's long bodies, as parsing and tokenising them delays the answers of all clients.

A token bucket per client. The rate is higher than any engine can read: at four bytes per token, 1 MiB/s is 260,000
tokens per second from one client to one pod.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

BYTES_PER_SECOND = 1 << 20
BURST = 4 << 20  # bytes
LONGEST = 2.0  # maximal delay of a body, in seconds
_CLIENTS = 1024  # clients that are remembered


class Pace:
    """Computes how long to delay a body."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paid: OrderedDict[str, float] = OrderedDict()  # client -> time at which its bucket is full again

    def delay(self, client: str, size: int) -> float:
        """Take `size` bytes from the client's bucket. Returns the seconds to wait before reading the body."""
        now = self._clock()
        known = self._paid.pop(client, 0.0)
        self._paid[client] = min(max(known, now - BURST / BYTES_PER_SECOND) + size / BYTES_PER_SECOND, now + LONGEST)
        if len(self._paid) > _CLIENTS:
            self._paid.popitem(last=False)
        return max(0.0, self._paid[client] - now)
