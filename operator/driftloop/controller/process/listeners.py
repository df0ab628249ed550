"""Runs probes, metrics and webhook in a separate thread and event loop.

When kopf ends, it cancels every task of its loop, which would cancel webhook requests in flight:
https://github.com/nolar/kopf/issues/1030. And a probe on the main loop could not report that this loop is blocked.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

from aiohttp import web

DRAIN = 5.0  # seconds to finish requests in flight

Apps = Callable[[], Awaitable[list[tuple[web.Application, int]]]]


class Listeners:
    """Serves the applications that `apps` creates, in the thread's event loop, on `host`."""

    def __init__(self, host: str, apps: Apps) -> None:
        self._host = host
        self._apps = apps
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="listeners", daemon=True)

    def start(self) -> None:
        """Start, and return when the ports are bound. Raises OSError if a port is in use."""
        self._thread.start()
        self._started.result(timeout=30)

    def stop(self) -> None:
        """Accept no more requests, and finish those in flight."""
        loop, stop = self._started.result()
        loop.call_soon_threadsafe(stop.set)
        self._thread.join(timeout=DRAIN + 5)

    async def _serve(self) -> None:
        runners: list[web.AppRunner] = []
        stop = asyncio.Event()
        try:
            for app, port in await self._apps():
                runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN)
                await runner.setup()
                runners.append(runner)
                await web.TCPSite(runner, self._host, port).start()
        except BaseException as error:
            self._started.set_exception(error)
            stop.set()
        else:
            self._started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        for runner in runners:
            await runner.cleanup()
