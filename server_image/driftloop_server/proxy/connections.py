"""The life of clients' connections: a pool of them must spread over new pods, and leave a pod that ends.

A client with pooled connections stays with the pods it found first. So a connection is closed after so many requests
or seconds, by the header `Connection: close` of an answer: the client then knows, and no request meets a closed one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from aiohttp import web

from driftloop_server.openai_api import Handler

MAX_REQUESTS = 1000
MAX_SECONDS = 60.0
# A pooled connection may carry a request at any moment. One that was silent so long is not in use: httpx drops it
# after 5 s, aiohttp after 15 s.
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
        self.running = 0  # requests that are being answered
        self._max_requests = max_requests
        self._max_seconds = max_seconds
        self._clock = clock
        self._connections: WeakKeyDictionary[object, _Connection] = WeakKeyDictionary()

    def watch(self, app: web.Application) -> None:
        app.middlewares.insert(0, self._count)
        app.on_response_prepare.append(self._close_if_due)

    def quiet(self) -> bool:
        """No request runs and none is to be expected on an open connection."""
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
            response.headers["Connection"] = "close"  # force_close alone comes too late for the header


def _closing(transport: object) -> bool:
    return bool(getattr(transport, "is_closing", lambda: True)())
