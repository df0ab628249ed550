"""`python -m driftloop_server.proxy`: serve the pod's clients in front of any OpenAI-compatible engine."""

import argparse
import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

from driftloop.contract.names import TLS_DIR
from driftloop.contract.reasons import StageReason
from driftloop.contract.task import ServeTask
from driftloop.podlib import logs
from driftloop.podlib.ending import BadInput, StageFailure, report
from driftloop_server.descriptors import raise_limit
from driftloop_server.listener import listen
from driftloop_server.proxy.activity import Busy
from driftloop_server.proxy.app import Api
from driftloop_server.proxy.clients import Clients, KeyCheck, clients_of
from driftloop_server.proxy.connections import MAX_REQUESTS, MAX_SECONDS, Connections, drain
from driftloop_server.proxy.cors import Cors
from driftloop_server.proxy.drift import DriftCounters, read_reference
from driftloop_server.proxy.feedback import MIN_SECRET, TOKEN_ENV, Feedback
from driftloop_server.proxy.identity import Signer
from driftloop_server.proxy.memory import Memory
from driftloop_server.proxy.metrics import ProxyMetrics
from driftloop_server.proxy.mirror import Mirror, Settings
from driftloop_server.proxy.names import Names
from driftloop_server.proxy.probes import Probes
from driftloop_server.proxy.readiness import Readiness
from driftloop_server.proxy.segments import Segments
from driftloop_server.proxy.tls import Certificate
from driftloop_server.proxy.topics import Topics
from driftloop_server.proxy.upstream import Upstream
from driftloop_server.stage import serve_task

log = logging.getLogger("driftloop_server.proxy")

SIGNING_KEY_ENV = "DRIFTLOOP_SIGNING_KEY"
TLS_ENV = "DRIFTLOOP_TLS"  # replaces TLS_DIR outside a pod

# Kubernetes sends SIGTERM while it removes the pod from the endpoints, not afterwards, so new connections still arrive:
# https://github.com/kubernetes/kubernetes/issues/106476
LINGER_SECONDS = 4.0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="driftloop_server.proxy", description=__doc__)
    parser.add_argument(
        "--connection-requests", type=int, default=MAX_REQUESTS, help="requests after which a connection is closed"
    )
    parser.add_argument(
        "--connection-seconds", type=float, default=MAX_SECONDS, help="seconds after which a connection is closed"
    )
    return parser.parse_args(argv)


class Keys:
    """The service's secrets, from the environment. A pod of an evaluation has none, as it serves no users."""

    def __init__(self, task: ServeTask) -> None:
        self.signing, self.token = os.environ.get(SIGNING_KEY_ENV, ""), os.environ.get(TOKEN_ENV, "")
        self.of_a_service = bool(self.signing)
        if task.feedback_uri and not (len(self.signing) >= MIN_SECRET and len(self.token) >= MIN_SECRET):
            raise BadInput(
                StageReason.NO_KEYS,
                f"feedback needs {SIGNING_KEY_ENV} and {TOKEN_ENV}, each with at least {MIN_SECRET} characters",
            )
        self.signing = self.signing or secrets.token_hex(32)


def certificate_of(task: ServeTask) -> Certificate | None:
    """The certificate for HTTPS; None for HTTP. Raises TryAgain if the Secret has none."""
    if task.tls_secret is None:
        return None
    return Certificate(Path(os.environ.get(TLS_ENV, TLS_DIR)), task.tls_secret)


def mirror_of(task: ServeTask, keys: Keys, signer: Signer, metrics: ProxyMetrics) -> Mirror:
    """Copies requests to a candidate of the service. A pod of an evaluation copies none."""
    url = task.shadow_url if keys.of_a_service else None
    return Mirror(url, signer.shadow_token, task.request_timeout_seconds, metrics)


async def serve(
    task: ServeTask,
    keys: Keys,
    clients: Clients | None,
    certificate: Certificate | None,
    options: argparse.Namespace,
) -> None:
    """Serve until SIGTERM, then drain."""
    terminated = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, terminated.set)
    engine = f"http://127.0.0.1:{task.engine_port}"
    async with (
        Upstream(engine, task.request_timeout_seconds, task.readiness_path) as upstream,
        AsyncExitStack() as running,
    ):
        metrics, memory, busy = ProxyMetrics(task), Memory(), Busy()
        signer = Signer(keys.signing.encode(), task.service_uid)
        readiness = Readiness(upstream, task.engine_model, busy.begin)
        topics = Topics() if task.drift_topics else None
        drift = DriftCounters(read_reference(Path(task.model_dir)), metrics, topics)
        connections = Connections(options.connection_requests, options.connection_seconds)
        cors = Cors(task.allowed_origins)
        key_check = KeyCheck(clients, metrics.client, signer.shadow_token)
        mirror = await running.enter_async_context(mirror_of(task, keys, signer, metrics))
        wanted = Settings(revision=task.revision, percent=task.shadow_percent, latency_ratio=task.shadow_latency_ratio)
        api = Api(
            task.version,
            task.revision,
            Names(task.service, task.engine_model),
            upstream,
            signer,
            memory,
            metrics,
            drift,
            readiness,
            cors,
            key_check,
            mirror,
            wanted,
            busy,
        ).app()
        apps = [(api, task.api_port)]
        if task.feedback_uri:
            segments = Segments(task.feedback_uri, socket.gethostname())
            feedback = Feedback(task, keys.token, signer, memory, segments, metrics, busy, topics)
            apps.append((feedback.app(), task.feedback_port))
        for app, _ in apps:
            connections.watch(app)
        # Listeners close in reverse order. The probes' port is the last, and the engine stops when it is closed.
        probes = Probes(readiness, metrics, upstream, busy, topics).app()
        tls = certificate.context if certificate else None
        runners = [await listen(probes, task.metrics_port, cancel=False)]
        runners += [await listen(app, port, cancel=app is api, tls=tls) for app, port in apps]
        renewing = asyncio.create_task(certificate.watch()) if certificate else None
        watching = asyncio.create_task(readiness.watch())
        mirroring = asyncio.create_task(mirror.watch(task.revision))
        log.info("%s: API on port %d, engine %s", task.version, task.api_port, task.engine_type)
        await _first(watching, asyncio.create_task(terminated.wait()))
        readiness.draining = connections.draining = True
        await drain(connections, task.drain_seconds, LINGER_SECONDS if keys.of_a_service else 0)
        watching.cancel()
        if renewing:
            renewing.cancel()
        mirroring.cancel()
        for runner in reversed(runners):
            await runner.cleanup()


async def _first(*tasks: asyncio.Task[None] | asyncio.Task[Literal[True]]) -> None:
    """Wait for the first task to end, and raise its error if it has one."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def main() -> None:
    options = arguments()
    logs.setup()
    raise_limit()
    try:
        task = serve_task()
        keys = Keys(task)
        asyncio.run(serve(task, keys, clients_of(task.api_keys_secret), certificate_of(task), options))
    except StageFailure as error:
        sys.exit(report(error))


if __name__ == "__main__":
    main()
