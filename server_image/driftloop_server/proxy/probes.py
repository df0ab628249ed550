"""The port for the kubelet's probes and for Prometheus."""

from aiohttp import web
from prometheus_client import generate_latest

from driftloop.contract.names import ACTIVITY_PATH, TOPICS_PATH
from driftloop_server.proxy.activity import Busy
from driftloop_server.proxy.metrics import ProxyMetrics
from driftloop_server.proxy.readiness import Readiness
from driftloop_server.proxy.topics import Topics
from driftloop_server.proxy.upstream import Upstream


class Probes:
    """Serves the state of the pod.

    /healthz: this process runs. /readyz: the engine generates tokens. /enginez: the engine does not hang.
    /metrics: of the proxy and the engine. ACTIVITY_PATH: how busy the pod is. TOPICS_PATH: what its requests are about,
    if the service allows it.
    """

    def __init__(
        self, readiness: Readiness, metrics: ProxyMetrics, upstream: Upstream, busy: Busy, topics: Topics | None = None
    ) -> None:
        self._readiness = readiness
        self._metrics = metrics
        self._upstream = upstream
        self._busy = busy
        self._topics = topics

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/enginez", self.enginez)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get(ACTIVITY_PATH, self._busy.get)
        if self._topics:
            app.router.add_get(TOPICS_PATH, self._topics.get)
        return app

    async def healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        obstacle = self._readiness.obstacle
        return web.Response(text=f"{obstacle or 'ok'}\n", status=503 if obstacle else 200)

    async def enginez(self, request: web.Request) -> web.Response:
        reason = await self._upstream.hangs()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry) + await self._upstream.metrics()
        return web.Response(body=body, content_type="text/plain", charset="utf-8")
