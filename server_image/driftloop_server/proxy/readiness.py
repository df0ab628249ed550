"""Ready means: the engine generated a token, lately. An open port or a /health that answers proves nothing."""

import asyncio
import logging
import time

from driftloop_server.proxy.upstream import BUSY, Upstream

log = logging.getLogger(__name__)

STARTING_SECONDS = 0.5  # between two tries until the first token
PROBE_SECONDS = 5.0  # after that; answered requests prove the same, and no probe is sent beside them
FAILURES = 2  # in a row: one alone may be a moment's load


class Readiness:
    """Probes the engine directly, so its own traffic counts nowhere."""

    def __init__(self, upstream: Upstream, model: str) -> None:
        self._upstream = upstream
        self._model = model
        self._proven_at: float | None = None
        self._failures = 0
        self._reason = "the engine has not generated a token yet"
        self.draining = False

    @property
    def obstacle(self) -> str | None:
        """Why the pod is not ready; None when it is."""
        if self.draining:
            return "draining"
        ready = self._proven_at is not None and self._failures < FAILURES
        return None if ready else self._reason

    def proven(self) -> None:
        """A token was generated, for whomever."""
        if self._proven_at is None:
            log.info("ready: the engine generated a token")
        self._proven_at = time.monotonic()
        self._failures = 0

    async def watch(self) -> None:
        """Probe for ever."""
        while True:
            if self._proven_at is None or time.monotonic() - self._proven_at >= PROBE_SECONDS:
                await self._probe()
            await asyncio.sleep(STARTING_SECONDS if self.obstacle else PROBE_SECONDS)

    async def _probe(self) -> None:
        trouble = await self._upstream.generates_a_token(self._model)
        if trouble is None:
            self.proven()
            return
        if trouble == BUSY and self._proven_at is not None:
            return  # so many requests are no sign of a fault
        self._failures += 1
        self._reason = f"the engine generates no token: {trouble}"
        if self._proven_at is not None:
            log.warning("%s", self._reason)
