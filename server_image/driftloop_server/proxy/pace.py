"""Limits what one client costs the others: the rate of its long bodies, and of its requests that are refused.

Parsing and tokenising a long body delays the answers of all clients, and a refused request costs the proxy and the
engine about as much as another short one, but comes back so fast that a loop of them takes a whole core. Each limit is
a token bucket per client.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_CLIENTS = 1024  # clients that are remembered


@dataclass(frozen=True)
class Rate:
    """`burst` and `per_second` are in the same unit."""

    per_second: float
    burst: float
    longest: float  # maximal delay, in seconds


# Bytes. The rate is higher than any engine can read: at four bytes per token, 1 MiB/s is 260,000 tokens per second from
# one client to one pod.
BODIES = Rate(per_second=1 << 20, burst=4 << 20, longest=2.0)
# Requests. A program that corrects its requests, or tries many wrong ones in a test, stays below it.
REFUSALS = Rate(per_second=20, burst=60, longest=1.0)


class Pace:
    """Computes how long to delay a client."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._paid: OrderedDict[str, float] = OrderedDict()  # client -> time at which its bucket is full again

    def delay(self, client: str, size: float = 1) -> float:
        """Take `size` from the client's bucket. Returns the seconds to wait."""
        rate, now = self._rate, self._clock()
        known = self._paid.pop(client, 0.0)
        earliest = now - rate.burst / rate.per_second
        self._paid[client] = min(max(known, earliest) + size / rate.per_second, now + rate.longest)
        if len(self._paid) > _CLIENTS:
            self._paid.popitem(last=False)
        return max(0.0, self._paid[client] - now)
