"""A pod is ready if the engine generated a token recently. An open port or an answer of /health is not enough."""

import asyncio
import logging
import time
from collections.abc import Callable

from driftloop_server.proxy.upstream import BUSY, Upstream

log = logging.getLogger(__name__)

STARTING_SECONDS = 0.5  # between two probes until the first token
PROBE_SECONDS = 5.0  # between two probes afterwards; while requests are answered, no probe is needed
FAILURES = 2  # in a row before the pod is not ready: a single failure may be due to load


class Readiness:
    """Probes the engine directly, so that probes are not counted as requests."""

    def __init__(self, upstream: Upstream, model: str, begins: Callable[[], None] = lambda: None) -> None:
        """`begins`: called when the engine generates its first token."""
        self._upstream = upstream
        self._model = model
        self._begins = begins
        self._proven_at: float | None = None
        self._failures = 0
        self._reason = "the engine has not generated a token yet"
        self.draining = False

    @property
    def obstacle(self) -> str | None:
        """Why the pod is not ready; None if it is ready."""
        if self.draining:
            return "draining"
        ready = self._proven_at is not None and self._failures < FAILURES
        return None if ready else self._reason

    def proven(self) -> None:
        """Record that the engine generated a token, for a probe or a client."""
        if self._proven_at is None:
            log.info("ready: the engine generated a token")
            self._begins()
        self._proven_at = time.monotonic()
        self._failures = 0

    async def watch(self) -> None:
        """Probe until cancelled."""
        while True:
            if self._proven_at is None or time.monotonic() - self._proven_at >= PROBE_SECONDS:
                await self._probe()
            await asyncio.sleep(STARTING_SECONDS if self.obstacle else PROBE_SECONDS)

    async def _probe(self) -> None:
        problem = await self._upstream.generates_a_token(self._model)
        if problem is None:
            self.proven()
            return
        if problem == BUSY and self._proven_at is not None:
            return  # a full queue is not a fault
        self._failures += 1
        self._reason = f"the engine generates no token: {problem}"
        if self._proven_at is not None:
            log.warning("%s", self._reason)
