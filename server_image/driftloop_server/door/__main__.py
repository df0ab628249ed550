"""`python -m driftloop_server.door`: hold a service's requests while none of its pods runs, and pass them on."""

import asyncio
import logging
import os
import secrets
import signal
import sys
from contextlib import AsyncExitStack

from aiohttp import web
from prometheus_client import generate_latest

from driftloop.contract.names import ACTIVITY_PATH
from driftloop.contract.reasons import StageReason
from driftloop.contract.task import DoorTask
from driftloop.podlib import logs
from driftloop.podlib.ending import BadInput, StageFailure, report
from driftloop_server.descriptors import raise_limit
from driftloop_server.door.app import Door, Holder, Ratings
from driftloop_server.door.metrics import DoorMetrics
from driftloop_server.door.pods import Pods
from driftloop_server.listener import listen
from driftloop_server.proxy.activity import Busy
from driftloop_server.proxy.bodies import Bodies
from driftloop_server.proxy.clients import Clients, KeyCheck, clients_of
from driftloop_server.proxy.connections import MAX_REQUESTS, MAX_SECONDS, Connections, drain
from driftloop_server.proxy.cors import Cors
from driftloop_server.proxy.feedback import MIN_SECRET, TOKEN_ENV
from driftloop_server.stage import door_task

log = logging.getLogger("driftloop_server.door")


async def serve(task: DoorTask, clients: Clients | None, token: str) -> None:
    """Serve until SIGTERM, then drain."""
    terminated = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, terminated.set)
    busy, metrics, bodies = Busy(since_start=False), DoorMetrics(task.service), Bodies()
    connections = Connections(MAX_REQUESTS, MAX_SECONDS)
    # No other pod sends copies of requests to the door, so nobody knows this token.
    key_check = KeyCheck(clients, lambda client, code: metrics.request(code), secrets.token_hex(32))
    async with AsyncExitStack() as running:

        async def holder(url: str) -> Holder:
            pods = Pods(url, task.hold_seconds, task.request_timeout_seconds, busy, metrics)
            return Holder(await running.enter_async_context(pods), busy, bodies, metrics)

        door = Door(task.service, await holder(task.pods_url), Cors(task.allowed_origins), key_check)
        apps = [(door.app(), task.api_port)]
        if task.ratings_url:
            apps.append((Ratings(token, await holder(task.ratings_url)).app(), task.feedback_port))
        for app, _ in apps:
            connections.watch(app)
        runners = [await listen(_probes(busy, metrics), task.metrics_port, cancel=False)]
        runners += [await listen(app, port, cancel=True) for app, port in apps]
        log.info("door of %s on port %d, pods at %s", task.service, task.api_port, task.pods_url)
        await terminated.wait()
        connections.draining = True
        # Until another door is ready, this one still gets all requests, as Kubernetes has no other endpoint for them.
        await drain(connections, task.drain_seconds, task.linger_seconds)
        for runner in reversed(runners):
            await runner.cleanup()


def _probes(busy: Busy, metrics: DoorMetrics) -> web.Application:
    """The port for the kubelet's probe, for Prometheus and for the operator. The door is ready as long as it runs."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def exposed(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", exposed)
    app.router.add_get(ACTIVITY_PATH, busy.get)
    return app


def _token(task: DoorTask) -> str:
    """The token for ratings, from the environment. Raises BadInput if there is none: anybody could wake the service."""
    token = os.environ.get(TOKEN_ENV, "")
    if task.ratings_url and len(token) < MIN_SECRET:
        raise BadInput(StageReason.NO_KEYS, f"ratings need {TOKEN_ENV} with at least {MIN_SECRET} characters")
    return token


def main() -> None:
    logs.setup()
    raise_limit()
    try:
        task = door_task()
        asyncio.run(serve(task, clients_of(task.api_keys_secret), _token(task)))
    except StageFailure as error:
        sys.exit(report(error))


if __name__ == "__main__":
    main()
