"""How busy this process is, for the operator: it takes the pods of an idle service away, if the service allows it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from driftloop.contract.activity import Activity
from driftloop_server.openai_api import Handler


class Busy:
    """Counts the requests that need the engine. `since_start`: a process without a request is idle since its start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, since_start: bool = True) -> None:
        self._clock = clock
        self._running = self._held = 0
        self._last = clock() if since_start else None

    def begin(self) -> None:
        """From now on there may be requests: before, the process was not idle, but not ready."""
        self._last = self._clock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """A request, until the end of the block."""
        self._running += 1
        self._last = self._clock()
        try:
            yield
        finally:
            self._running -= 1
            self._last = self._clock()

    def counted(self, handler: Handler) -> Handler:
        """The handler, whose requests are counted until their answers end."""

        async def handle(request: web.Request) -> web.StreamResponse:
            with self.running():
                return await handler(request)

        return handle

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A running request waits for a serving pod until the end of the block."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    @property
    def activity(self) -> Activity:
        idle = None if self._last is None else max(0.0, self._clock() - self._last)
        return Activity(running=self._running, held=self._held, idle_seconds=0.0 if self._running else idle)

    async def get(self, request: web.Request) -> web.Response:
        return web.json_response(self.activity.dump())
