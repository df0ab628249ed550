"""Limits the life of clients' connections, so that pooled clients move to new pods and leave terminating ones.

A client with pooled connections stays with its first pods. So a connection ends after a number of requests or seconds.
An answer with the header `Connection: close` tells the client, so that no request is sent on a closed connection.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from aiohttp import web

from driftloop_server.openai_api import Handler

log = logging.getLogger(__name__)

MAX_REQUESTS = 1000
# A canary waits until its pods have enough requests, so clients must find them soon. A new connection inside the
# cluster costs little, so all of them are closed, whether a canary runs or not.
MAX_SECONDS = 10.0
# A pooled connection may carry a request at any moment, but one that was idle for this long is probably not in use:
# httpx closes idle connections after 5 s, aiohttp after 15 s.
SILENT_SECONDS = 10.0


@dataclass(slots=True)
class _Connection:
    opened: float
    last: float
    requests: int = 0


class Connections:
    """Watches the connections of one listener. `draining`: every answer closes its connection."""

    def __init__(
        self,
        max_requests: int = MAX_REQUESTS,
        max_seconds: float = MAX_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.draining = False
        self.running = 0  # requests in progress
        self._max_requests = max_requests
        self._max_seconds = max_seconds
        self._clock = clock
        self._connections: WeakKeyDictionary[object, _Connection] = WeakKeyDictionary()

    def watch(self, app: web.Application) -> None:
        app.middlewares.insert(0, self._count)
        app.on_response_prepare.append(self._close_if_due)

    def quiet(self) -> bool:
        """Whether no request is running and none is likely on an open connection."""
        now = self._clock()
        open_ones = [c for transport, c in self._connections.items() if not _closing(transport)]
        return not self.running and all(now - c.last >= SILENT_SECONDS for c in open_ones)

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        now = self._clock()
        transport = request.transport
        connection = self._connections.get(transport) or _Connection(opened=now, last=now)
        if transport is not None:
            self._connections[transport] = connection
        connection.requests += 1
        self.running += 1
        try:
            return await handler(request)
        finally:
            self.running -= 1
            connection.last = self._clock()

    async def _close_if_due(self, request: web.Request, response: web.StreamResponse) -> None:
        connection = self._connections.get(request.transport)
        due = connection is not None and (
            connection.requests >= self._max_requests or self._clock() - connection.opened >= self._max_seconds
        )
        if self.draining or due:
            response.force_close()
            response.headers["Connection"] = "close"  # aiohttp has prepared the headers before (not reported)


async def drain(connections: Connections, seconds: float, linger: float) -> None:
    """Keep accepting requests for `linger` seconds, then wait for running ones; at most `seconds` in total."""
    log.info("draining: %d requests are running", connections.running)
    deadline = time.monotonic() + seconds
    await asyncio.sleep(min(linger, seconds))
    while time.monotonic() < deadline and not connections.quiet():  # noqa: ASYNC110 - no event for idleness
        await asyncio.sleep(0.1)
    log.info("drained: %d requests are still running and are aborted", connections.running)


def _closing(transport: object) -> bool:
    return bool(getattr(transport, "is_closing", lambda: True)())
