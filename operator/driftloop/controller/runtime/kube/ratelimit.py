"""A token bucket that limits the operator's requests to the API server."""

import asyncio
import time
from collections.abc import Callable


class TokenBucket:
    """Allows `rate` requests per second on average, and `burst` at once, in order of arrival."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"rate must be above 0 and burst at least 1, not {rate} and {burst}")
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens = float(burst)
        self._at = clock()

    def reserve(self) -> float:
        """Take a token. Returns the seconds to wait before using it. A negative number of tokens counts the waiters."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)

    async def acquire(self) -> None:
        """Wait for a token."""
        if (wait := self.reserve()) > 0:
            await asyncio.sleep(wait)
