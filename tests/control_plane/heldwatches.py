"""A proxy in front of the API server that can hold back the events of watches, so that a client has a stale cache.

    with HeldWatches(plane, folder) as proxy:
        operator.add(f"--kubeconfig={proxy.kubeconfig}")
        proxy.hold("deployments")

All other requests pass at once, so the client reads and writes current objects. `release` sends the held events.
"""

import asyncio
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import aiohttp
from aiohttp import web

from testcluster.controlplane import ControlPlane, free_port

ALL = "*"  # the watches of every kind
HOP = {"connection", "content-encoding", "content-length", "host", "transfer-encoding"}


@dataclass(frozen=True)
class Request:
    """A request with its status code. A watch is recorded when it starts, other requests when they have ended."""

    verb: str
    path: str
    code: int
    watch: bool

    @property
    def plural(self) -> str:
        """The plural of the kind, from the path /apis/GROUP/VERSION/[namespaces/NAMESPACE/]PLURAL/..."""
        parts = self.path.strip("/").split("/")
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        return (rest[2:] if rest[:1] == ["namespaces"] and len(rest) > 2 else rest or [""])[0]

    @property
    def writes(self) -> bool:
        """Whether it writes any object other than a Lease or an Event."""
        return self.verb != "GET" and self.plural not in ("leases", "events")


class HeldWatches:
    """The proxy, in its own thread, with the rights of the administrator."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._server = plane.server
        self._tls = plane.admin_context()
        self._port = free_port()
        self.kubeconfig = folder / "kubeconfig-held"
        self.kubeconfig.write_text(_kubeconfig(f"http://127.0.0.1:{self._port}"))
        self.requests: list[Request] = []
        self._held: set[str] = set()
        self._released = asyncio.Event()  # belongs to the thread's loop
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "HeldWatches":
        self._thread.start()
        assert self._up.wait(30)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(30)

    def hold(self, plural: str = ALL) -> None:
        """Hold back the events of all watches of a kind, also of watches that start later."""
        self._held.add(plural)

    def release(self) -> None:
        """Send the held events, and hold back nothing any more."""
        self._held.clear()
        self._loop.call_soon_threadsafe(self._released.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        async with aiohttp.ClientSession(self._server, connector=connector, auto_decompress=True) as self._session:
            app = web.Application(client_max_size=16 * 2**20)
            app.router.add_route("*", "/{path:.*}", self._pass)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
            self._up.set()
            await self._stopping.wait()
            await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        watch = request.query.get("watch") in ("true", "1")
        timeout = aiohttp.ClientTimeout(total=None if watch else 60)
        # For empty bytes aiohttp would send a Content-Type: https://github.com/aio-libs/aiohttp/issues/5392
        body = await request.read() or None
        asked = self._session.request(request.method, request.rel_url, headers=headers, data=body, timeout=timeout)
        async with asked as answer:
            noted = Request(request.method, request.path, answer.status, watch)
            given = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
            if not watch:
                whole = await answer.read()
                self.requests.append(noted)
                return web.Response(status=answer.status, headers=given, body=whole)
            self.requests.append(noted)
            stream = web.StreamResponse(status=answer.status, headers=given)
            await stream.prepare(request)
            async for chunk in answer.content.iter_any():
                await self._while_held(noted.plural)
                await stream.write(chunk)
            return stream

    async def _while_held(self, plural: str) -> None:
        while self._held & {plural, ALL}:
            self._released.clear()
            await self._released.wait()


def _kubeconfig(server: str) -> str:
    """A kubeconfig without credentials, as the proxy adds the administrator's."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "held", "cluster": {"server": server}}],
        "users": [{"name": "held", "user": {}}],
        "contexts": [{"name": "held", "context": {"cluster": "held", "user": "held"}}],
        "current-context": "held",
    }
    return json.dumps(config)
