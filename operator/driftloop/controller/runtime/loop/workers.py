"""The workers take keys from the queue, reconcile, and decide when a key is queued again."""

import asyncio
import logging
import time

from driftloop.controller.runtime.kube.api import NotLeading
from driftloop.controller.runtime.logs import working_on
from driftloop.controller.runtime.loop.queue import Backoff, WorkQueue
from driftloop.controller.runtime.loop.reconcile import Reconciler, Result
from driftloop.controller.runtime.metrics import ERRORS, RECONCILE_SECONDS, RECONCILES
from driftloop.controller.vocabulary.plan import Key

log = logging.getLogger(__name__)

TIMEOUT = 120.0  # seconds per reconcile
SHORTEST = 0.1  # minimum seconds between two reconciles without a change
MANY_WRITES = 20  # writes in a row that suggest a bug in the decider: from then on slow down


class Workers:
    """`concurrency` tasks that reconcile until they are cancelled."""

    def __init__(self, queue: WorkQueue[Key], reconciler: Reconciler, concurrency: int) -> None:
        self._queue = queue
        self._reconciler = reconciler
        self._concurrency = concurrency
        self._backoff: Backoff[Key] = Backoff()
        self._writes: dict[Key, int] = {}

    async def run(self) -> None:
        """Run the workers. If one fails, all end, as that is a bug of this module."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                with working_on(key):
                    self._schedule(key, await self._reconcile(key))
            finally:
                self._queue.done(key)

    async def _reconcile(self, key: Key) -> Result:
        started = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT):
                result = await self._reconciler.reconcile(key)
        except NotLeading:
            raise
        except Exception:  # a failure of one object must not stop the others
            ERRORS.labels("reconcile").inc()
            log.exception("reconcile failed")
            result = Result("error", retry=True)
        RECONCILE_SECONDS.labels(key.kind).observe(time.monotonic() - started)
        RECONCILES.labels(key.kind, result.name).inc()
        return result

    def _schedule(self, key: Key, result: Result) -> None:
        writes = self._writes.pop(key, 0) + 1
        if result.wrote:
            self._writes[key] = writes
        else:
            writes = 0
        if writes > MANY_WRITES:
            log.warning("written %d times in a row: the object does not settle", writes)
        if result.retry or writes > MANY_WRITES:
            self._queue.add(key, after=self._backoff.next(key))
            return
        self._backoff.reset(key)
        if writes:
            self._queue.add(key)
        elif result.after is not None:
            self._queue.add(key, after=max(SHORTEST, result.after))
