"""Holds the Lease in a separate thread and event loop. A second thread ends the process when the Lease is lost.

So a busy main loop does not lose the Lease. The second thread only reads the clock: even if the main loop, a request, a
handler or the clean-up of asyncio hangs, the process ends without the Lease, as another replica may already lead.
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait

from driftloop.controller.process.leader import Election, Elector
from driftloop.controller.runtime.kube.api import Api

log = logging.getLogger(__name__)

LEASE_LOST = 3  # exit status
TICK = 0.1  # seconds between two checks of the clock
LAST_MESSAGE = 0.5  # seconds that the last log message may take: the reader of the log may hang too


def end_process() -> None:
    """End the process immediately, without clean-up."""
    last = threading.Thread(target=log.critical, args=("the lease is lost: the process ends",), daemon=True)
    last.start()
    last.join(LAST_MESSAGE)
    os._exit(LEASE_LOST)


class Leadership:
    """Acquires the Lease, renews it until `release`, and calls `end` within a second after losing it.

    `connect` is awaited in the thread's event loop, because connections belong to one loop.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Api]], election: Election, end: Callable[[], None] = end_process
    ) -> None:
        self._connect = connect
        self._election = election
        self._end = end
        self._elector: Elector | None = None
        self._thread = threading.Thread(target=self._run, name="elector", daemon=True)
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._acquired: Future[None] = Future()
        self._released = threading.Event()

    def start(self) -> None:
        """Start to acquire the Lease."""
        self._thread.start()

    def leads(self) -> bool:
        """Whether this replica certainly holds the Lease now. May be called from any thread."""
        return self._elector is not None and self._elector.leads()

    async def acquired(self) -> None:
        """Wait until this replica leads. Raises the exception of an elector that failed."""
        await asyncio.shield(asyncio.wrap_future(self._acquired))

    def release(self, timeout: float = 10.0) -> None:
        """Release the Lease, if this replica holds it, and end the thread. Blocks for at most twice `timeout` seconds.

        A Lease that is already lost is not released: the process is about to end.
        """
        if not self._thread.is_alive():
            return
        wait([self._started], timeout)
        if self._started.done() and self._started.exception() is None:
            loop, stop = self._started.result()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(stop.set)
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            asyncio.run(self._elect())
        except BaseException as error:
            log.exception("the elector failed")
            for future in (self._started, self._acquired):
                if not future.done():
                    future.set_exception(error)

    async def _elect(self) -> None:
        stop = asyncio.Event()
        api = await self._connect()
        elector = self._elector = Elector(api, self._election)
        self._started.set_result((asyncio.get_running_loop(), stop))
        try:
            if await elector.acquire(stop):
                threading.Thread(target=self._guard, args=(elector,), name="lease guard", daemon=True).start()
                self._acquired.set_result(None)
                await elector.hold(stop)
            if stop.is_set() and elector.leads():
                self._released.set()
                await elector.release()
        finally:
            await api.close()

    def _guard(self, elector: Elector) -> None:
        while not self._released.wait(TICK):
            if not elector.leads():
                self._end()
                return
