"""Gateway API on the control plane: its CRDs, a real Traefik, and pods that are HTTP servers in the test's process.

`Pods` plays the kubelet and the controllers of Deployments and EndpointSlices. A pod answers with the name of its
version, and counts its answers where the real proxy would.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from control_plane.harness import Cluster
from control_plane.traffic import Traffic
from driftloop.contract.names import BUCKET_HEADER, VERSION_HEADER
from testcluster.binaries import binary, downloaded
from testcluster.controlplane import ControlPlane, free_port

CLASS = "traefik"
PATH = "/v1/completions"
STARTS_SECONDS = 0.5  # until a new pod is ready
ACCEPTS_SECONDS = 5.0  # for which a terminating pod still accepts requests; the real proxy does so until it is quiet
FOLLOWS_SECONDS = 3.0  # Traefik follows changes at most every two seconds
LOADERS = 4


def install_gateway_api(plane: ControlPlane) -> None:
    """Apply the CRDs of Gateway API's standard channel. They stay, as deleting them can take more than a minute."""
    crds = str(downloaded("gateway", "sigs.k8s.io/gateway-api") / "config/crd/standard")
    plane.kubectl("apply", "--server-side", "-f", crds)
    plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")


def create_gateway(cluster: Cluster, port: int) -> None:
    """Create the Gateway `public` on a port of this machine, and its GatewayClass, which all namespaces share."""
    api = "gateway.networking.k8s.io/v1"
    listener = {"name": "web", "protocol": "HTTP", "port": port, "allowedRoutes": {"namespaces": {"from": "Same"}}}
    objects = [
        {
            "apiVersion": api,
            "kind": "GatewayClass",
            "metadata": {"name": CLASS},
            "spec": {"controllerName": "traefik.io/gateway-controller"},
        },
        {
            "apiVersion": api,
            "kind": "Gateway",
            "metadata": {"name": "public"},
            "spec": {"gatewayClassName": CLASS, "listeners": [listener]},
        },
    ]
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


@contextlib.contextmanager
def traefik(plane: ControlPlane, namespace: str, folder: Path, port: int) -> Iterator[None]:
    """A Traefik that serves the Gateways of a namespace, on `port`."""
    command = [
        str(binary("traefik")),
        f"--entrypoints.web.address=127.0.0.1:{port}",
        f"--providers.kubernetesgateway.namespaces={namespace}",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
        "--log.level=INFO",
    ]
    environment = os.environ | {"KUBECONFIG": str(plane.kubeconfig)}
    log = folder / "traefik.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
        print(f"--- traefik\n{log.read_text()[-4000:]}")


@dataclass(frozen=True)
class Answer:
    """An answer to one request, or its failure."""

    time: float  # monotonic
    status: int  # 0: no answer
    version: str | None  # of the pod; None: another program answered


@dataclass
class Load:
    """Requests, one after another from each of several clients with persistent connections."""

    answers: list[Answer] = field(default_factory=list)

    def lost(self) -> list[Answer]:
        """Requests that no pod has answered."""
        return [answer for answer in self.answers if answer.version is None]

    def share(self, version: str, since: float, until: float) -> tuple[float, int]:
        """The version's share of the answers between two times, and their number."""
        found = [answer.version for answer in self.answers if since <= answer.time < until]
        return (found.count(version) / len(found) if found else 0.0), len(found)


async def ask(session: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None) -> Answer:
    """Send one request."""
    now = time.monotonic()
    try:
        async with session.post(f"{url}{PATH}", json={"prompt": "hello"}, headers=headers or {}) as response:
            await response.read()
            return Answer(now, response.status, response.headers.get("X-Version"))
    except (aiohttp.ClientError, TimeoutError, OSError):
        return Answer(now, 0, None)


class Pods:
    """The pods of a namespace, and the EndpointSlices of its Services."""

    def __init__(self, cluster: Cluster, traffic: Traffic) -> None:
        self.bad: set[str] = set()  # versions that answer with errors
        self._cluster, self._traffic = cluster, traffic
        self._pods: list[_Pod] = []
        self._slices: dict[str, Any] = {}
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Pods"]:
        """Follow the Deployments and Services until the end of the context."""
        connector = aiohttp.TCPConnector(ssl=self._cluster.plane.admin_context())
        async with aiohttp.ClientSession(connector=connector) as self._session:
            following = asyncio.create_task(self._follow())
            try:
                yield self
            finally:
                following.cancel()
                await asyncio.gather(following, *self._tasks, return_exceptions=True)
                for pod in self._pods:
                    await pod.stop()

    @contextlib.asynccontextmanager
    async def load(self, url: str | None = None) -> AsyncIterator[Load]:
        """Requests to `url`; without one to the ready pods that the Service `desk` selects, as kube-proxy does."""
        load = Load()
        loaders = [asyncio.create_task(self._loader(load, url)) for _ in range(LOADERS)]
        try:
            yield load
        finally:
            for loader in loaders:
                loader.cancel()
            await asyncio.gather(*loaders, return_exceptions=True)

    async def _loader(self, load: Load, url: str | None) -> None:
        number = 0
        async with aiohttp.ClientSession() as session:
            while True:
                number += 1
                load.answers.append(await ask(session, url or self._target(number)))
                await asyncio.sleep(0.02)

    def _target(self, number: int) -> str:
        endpoints = [body for body in self._slices.values() if body["metadata"]["labels"][_SERVICE] == "desk"]
        chosen = endpoints[number % len(endpoints)]
        return f"http://{chosen['endpoints'][0]['addresses'][0]}:{chosen['ports'][0]['port']}"

    async def _follow(self) -> None:
        while True:
            await self._run_pods(await self._list("/apis/apps/v1", "deployments"))
            await self._publish(await self._list("/api/v1", "services"))
            await asyncio.sleep(0.1)

    async def _run_pods(self, deployments: list[Any]) -> None:
        for body in deployments:
            own = [pod for pod in self._pods if pod.deployment["metadata"]["uid"] == body["metadata"]["uid"]]
            for _ in range(body["spec"]["replicas"] - len(own)):
                pod = _Pod(body, self)
                await pod.start()
                self._pods.append(pod)
            for pod in own[body["spec"]["replicas"] :]:
                self._pods.remove(pod)
                self._tasks.add(asyncio.create_task(pod.end()))
            await self._report(body)
        live = {body["metadata"]["uid"] for body in deployments}
        assert all(pod.deployment["metadata"]["uid"] in live for pod in self._pods)

    async def _report(self, body: Any) -> None:
        own = [pod for pod in self._pods if pod.deployment["metadata"]["uid"] == body["metadata"]["uid"]]
        ready = sum(pod.is_ready for pod in own)
        status = {
            "observedGeneration": body["metadata"]["generation"],
            "replicas": len(own),
            "updatedReplicas": len(own),
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        if any((body.get("status") or {}).get(name, 0) != value for name, value in status.items()):
            path = f"{self._path('/apis/apps/v1', 'deployments')}/{body['metadata']['name']}/status"
            await self._send("PATCH", path, {"status": status}, "application/merge-patch+json")

    async def _publish(self, services: list[Any]) -> None:
        """One EndpointSlice per Service and ready pod, as each pod has its own port."""
        wanted = {
            f"{service['metadata']['name']}-{pod.port}": _endpoints(service, pod)
            for service in services
            for pod in self._pods
            if pod.is_ready and service["spec"].get("selector", {}).items() <= pod.labels.items()
        }
        path = self._path("/apis/discovery.k8s.io/v1", "endpointslices")
        for name in wanted.keys() - self._slices.keys():
            await self._send("POST", path, wanted[name])
        for name in self._slices.keys() - wanted.keys():
            await self._send("DELETE", f"{path}/{name}")
        self._slices = wanted

    async def _list(self, root: str, plural: str) -> list[Any]:
        return list((await self._send("GET", self._path(root, plural)))["items"])

    def _path(self, root: str, plural: str) -> str:
        return f"{root}/namespaces/{self._cluster.namespace}/{plural}"

    async def _send(self, verb: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        assert self._session is not None
        headers = {"Content-Type": content}
        url = self._cluster.plane.server + path
        async with self._session.request(verb, url, json=body, headers=headers) as response:
            assert response.status < 300 or response.status == 404, await response.text()
            return await response.json()

    def answered(self, deployment: Any, *, good: bool) -> None:
        """Count an answer, as the proxy does."""
        self._traffic.serve(deployment, 1, 0 if good else 1)


class _Pod:
    """An HTTP server on a port of this machine."""

    def __init__(self, deployment: Any, pods: Pods) -> None:
        self.deployment = deployment
        self.labels = deployment["spec"]["template"]["metadata"]["labels"]
        self.version = self.labels["driftloop.dev/version"]
        self.port = free_port()
        self._pods, self._started, self._draining = pods, time.monotonic(), False

    @property
    def is_ready(self) -> bool:
        return time.monotonic() - self._started > STARTS_SECONDS

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post(PATH, self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, address(), self.port).start()

    async def end(self) -> None:
        """Terminate as the real pod: it accepts requests for some time, and every answer closes its connection."""
        self._draining = True
        await asyncio.sleep(ACCEPTS_SECONDS)
        await self.stop()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        await request.read()
        good = self.version not in self._pods.bad
        if VERSION_HEADER not in request.headers:
            self._pods.answered(self.deployment, good=good)
        response = web.Response(status=200 if good else 500, headers={"X-Version": self.version})
        if self._draining:
            response.force_close()
        return response


_SERVICE = "kubernetes.io/service-name"


def _endpoints(service: Any, pod: _Pod) -> Any:
    name = service["metadata"]["name"]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-{pod.port}", "labels": {_SERVICE: name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address()], "conditions": {"ready": True, "serving": True}}],
        "ports": [{"name": "http", "port": pod.port, "protocol": "TCP"}],
    }


def address() -> str:
    """An address of this machine that an EndpointSlice may have: not one of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


def by_bucket(bucket: int) -> dict[str, str]:
    """The header of a client whose user is in a bucket."""
    return {BUCKET_HEADER: str(bucket)}


def by_arm(arm: str) -> dict[str, str]:
    """The header of a client that chooses its arm."""
    return {VERSION_HEADER: arm}
