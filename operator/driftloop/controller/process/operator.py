"""The operator's process: order of start and stop of its parts.

Every replica fills its caches, watches, answers probes and records alerts. Workers, poll and resync run on the leader
only. A leader that loses its lease ends immediately, so that requests in flight don't race with the next leader
(leadership.py).
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import aiohttp
import kopf
from aiohttp import web

from driftloop.controller.alerts.poll import Poll
from driftloop.controller.alerts.webhook import Webhook
from driftloop.controller.process.health import Heartbeat, ObjectMetrics, health_app
from driftloop.controller.process.leadership import Leadership
from driftloop.controller.process.listeners import Listeners
from driftloop.controller.process.options import Options
from driftloop.controller.runtime.kube.api import Api, credentials
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.kube.events import Recorder
from driftloop.controller.runtime.kube.nodes import Nodes
from driftloop.controller.runtime.kube.ratelimit import TokenBucket
from driftloop.controller.runtime.kube.routes import Routes
from driftloop.controller.runtime.kube.serverversion import require_supported
from driftloop.controller.runtime.loop.execute import Executor
from driftloop.controller.runtime.loop.queue import WorkQueue
from driftloop.controller.runtime.loop.reconcile import Reconciler
from driftloop.controller.runtime.loop.watch import Watcher, kopf_settings
from driftloop.controller.runtime.loop.workers import Workers
from driftloop.controller.runtime.metrics import LEADER, QUEUE_DEPTH, REGISTRY
from driftloop.controller.runtime.readings.prometheus import Prometheus
from driftloop.controller.runtime.readings.world import Metrics, World
from driftloop.controller.vocabulary.kind import Kind
from driftloop.controller.vocabulary.plan import Key

log = logging.getLogger(__name__)

CLEAN_UP = 30.0  # seconds after which the process is ended by force, if clean-up hangs


class Operator:
    """One replica. `run` ends on SIGTERM or SIGINT, or raises the exception of a part that failed."""

    def __init__(self, options: Options, kinds: Mapping[str, Kind[Any]]) -> None:
        self._options = options
        self._kinds = kinds
        self._caches = Caches()
        self._heartbeat = Heartbeat()
        self._synced = False

    async def run(self) -> None:
        """Run all parts. The listeners start first, to answer probes while the caches are filled, and stop last."""
        stop = asyncio.Event()
        _on_signals(stop)
        REGISTRY.register(ObjectMetrics(self._caches))
        listeners = Listeners(self._options.listen_host, self._apps)
        listeners.start()
        try:
            async with aiohttp.ClientSession() as session:
                await self._run(session, stop)
        finally:
            _end_by_force()
            await asyncio.to_thread(listeners.stop)

    async def _run(self, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        options = self._options
        configuration = await credentials(options.kubeconfig)
        leadership = Leadership(self._elector_api, options.election)
        api = Api(configuration, TokenBucket(options.qps, options.burst), may_write=leadership.leads)
        queue: WorkQueue[Key] = WorkQueue(asyncio.get_running_loop().time)
        QUEUE_DEPTH.set_function(lambda: len(queue) if leadership.leads() else 0)
        watcher = Watcher(api, self._caches, self._kinds.values(), queue.add, options.settings.namespaces)
        kopf_stop = asyncio.Event()
        stopping = asyncio.create_task(stop.wait(), name="stop")
        beating = asyncio.create_task(self._beat(), name="heartbeat")
        try:
            supported = asyncio.create_task(require_supported(api), name="version")
            await _first(stopping, beating, supported)
            supported.cancel()  # if `stop` was set first
            syncing = asyncio.create_task(watcher.sync_until_done(), name="sync")
            await _first(stopping, beating, syncing)
            self._synced = syncing.done()
            if not self._synced:
                syncing.cancel()
                return
            # Must start before kopf, which on exit cancels all later tasks: https://github.com/nolar/kopf/issues/1030
            leading = asyncio.create_task(self._lead(session, leadership, api, watcher, queue), name="lead")
            watching = asyncio.create_task(self._watch(watcher, configuration, stop, kopf_stop), name="kopf")
            try:
                await _first(stopping, beating, leading, watching)
            finally:
                leading.cancel()
                await asyncio.wait([leading], timeout=10)
                await asyncio.to_thread(leadership.release)
                kopf_stop.set()
                await asyncio.wait([watching], timeout=10)
        finally:
            beating.cancel()
            stopping.cancel()
            await api.close()

    async def _elector_api(self) -> Api:
        """A separate client without a rate limit for the elector: a busy operator must not lose its lease."""
        return Api(await credentials(self._options.kubeconfig))

    async def _lead(
        self,
        session: aiohttp.ClientSession,
        leadership: Leadership,
        api: Api,
        watcher: Watcher,
        queue: WorkQueue[Key],
    ) -> None:
        """Wait for the lease, then work until cancelled."""
        options = self._options
        prometheus = Prometheus(session, options.settings.prometheus_url)
        # If --namespaces is set, the operator has only Roles in these namespaces, which can't allow reading nodes.
        nodes = Nodes(None if options.settings.namespaces else api)
        world = World(self._caches, Metrics(session, prometheus), options.settings, nodes, Routes(api))
        executor = Executor(api, self._caches, Recorder(api, options.election.identity), watcher.changed)
        reconciler = Reconciler(self._kinds, world, self._caches, executor)
        poll = Poll(
            session,
            prometheus,
            options.settings.alertmanager_urls,
            api,
            self._caches,
            options.alert_lookback_seconds,
        )
        leadership.start()
        await leadership.acquired()
        LEADER.set(1)
        # A watch may lag behind by minutes. So list again, to decide on everything that the previous leader wrote.
        await watcher.sync_until_done()
        watcher.enqueue_all()
        async with asyncio.TaskGroup() as group:
            group.create_task(Workers(queue, reconciler, options.workers).run())
            group.create_task(watcher.resync(options.resync_seconds))
            group.create_task(poll.run(options.alert_poll_seconds))

    async def _watch(self, watcher: Watcher, configuration: Any, stop: asyncio.Event, kopf_stop: asyncio.Event) -> None:
        ready = asyncio.Event()
        namespaces = self._options.settings.namespaces
        kopf_task = asyncio.create_task(
            kopf.operator(
                registry=watcher.registry(configuration),
                settings=kopf_settings(),
                clusterwide=not namespaces,
                namespaces=namespaces,
                standalone=True,
                # Without it kopf generates an identity from the user's name and fails, as a container's user has no
                # name (not reported).
                identity=self._options.election.identity,  # type: ignore[arg-type]  # its NewType is private in kopf
                stop_flag=kopf_stop,
                ready_flag=ready,
            )
        )
        await _first(kopf_task, asyncio.create_task(ready.wait()))
        _on_signals(stop)  # again, as kopf has replaced the handlers with its own (not reported)
        await kopf_task

    async def _beat(self) -> NoReturn:
        while True:
            self._heartbeat.beat()
            await asyncio.sleep(1)

    async def _apps(self) -> list[tuple[web.Application, int]]:
        """The applications of the listeners. Created in the listeners' event loop, with connections of that loop."""
        options = self._options
        apps = [(health_app(self._heartbeat.alive, lambda: self._synced, REGISTRY), options.health_port)]
        if options.webhook_token_file is None:
            log.warning("--webhook-token-file is not set: alerts are only polled, and there is no webhook")
            return apps
        api = Api(await credentials(options.kubeconfig), TokenBucket(options.qps, options.burst))
        webhook = Webhook(api, options.webhook_token_file, options.settings.namespaces)
        return [*apps, (webhook.app(), options.webhook_port)]


async def _first(*tasks: "asyncio.Task[Any]") -> None:
    """Wait until the first task ends. Raises its exception if it failed."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _end_by_force() -> None:
    """End the process if its clean-up takes too long: kopf or asyncio may wait for a task that never ends."""
    timer = threading.Timer(CLEAN_UP, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
