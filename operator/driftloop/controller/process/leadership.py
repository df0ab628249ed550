"""The Lease is held from a thread and event loop of its own, and a second thread, that only reads the clock, ends
the process once it is lost.

So a busy main loop doesn't lose the Lease, and whatever hangs (the main loop, a request, a handler, the clean-up of
asyncio) doesn't keep the process alive without it: what is in flight may already be another's to do.
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
TICK = 0.1  # seconds between two looks at the clock
TELL = 0.5  # seconds that the last message may take: whoever reads our log may hang too


def end_process() -> None:
    """End at once, without clean-up."""
    last = threading.Thread(target=log.critical, args=("the lease is lost: ending",), daemon=True)
    last.start()
    last.join(TELL)
    os._exit(LEASE_LOST)


class Leadership:
    """Takes the Lease, renews it until `release`, and calls `end` within a second of losing it.

    `connect` is awaited in the thread's own loop, as connections belong to a loop.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Api]], election: Election, end: Callable[[], None] = end_process
    ) -> None:
        self._connect = connect
        self._election = election
        self._end = end
        self._elector: Elector | None = None
        self._thread = threading.Thread(target=self._run, name="elector", daemon=True)
        self._begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._acquired: Future[None] = Future()
        self._given_up = threading.Event()

    def start(self) -> None:
        """Begin to try for the Lease."""
        self._thread.start()

    def leads(self) -> bool:
        """Whether the Lease certainly holds now. From any thread."""
        return self._elector is not None and self._elector.leads()

    async def acquired(self) -> None:
        """Wait until we lead. Raises what the elector failed with before."""
        await asyncio.shield(asyncio.wrap_future(self._acquired))

    def release(self, timeout: float = 10.0) -> None:
        """Give the Lease up, if we have it, and end the thread. Blocks for at most twice `timeout` seconds.

        A Lease that is lost already is not given up: the process is about to end.
        """
        if not self._thread.is_alive():
            return
        wait([self._begun], timeout)
        if self._begun.done() and self._begun.exception() is None:
            loop, stop = self._begun.result()
            with contextlib.suppress(RuntimeError):  # the loop ended by itself meanwhile
                loop.call_soon_threadsafe(stop.set)
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            asyncio.run(self._elect())
        except BaseException as error:
            log.exception("the elector failed")
            for waited in (self._begun, self._acquired):
                if not waited.done():
                    waited.set_exception(error)

    async def _elect(self) -> None:
        stop = asyncio.Event()
        api = await self._connect()
        elector = self._elector = Elector(api, self._election)
        self._begun.set_result((asyncio.get_running_loop(), stop))
        try:
            if await elector.acquire(stop):
                threading.Thread(target=self._guard, args=(elector,), name="lease guard", daemon=True).start()
                self._acquired.set_result(None)
                await elector.hold(stop)
            if stop.is_set() and elector.leads():
                self._given_up.set()
                await elector.release()
        finally:
            await api.close()

    def _guard(self, elector: Elector) -> None:
        while not self._given_up.wait(TICK):
            if not elector.leads():
                self._end()
                return
