"""When a pod that ends may go."""

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from driftloop_server.proxy.connections import SILENT_SECONDS, Connections


async def test_it_waits_for_requests_and_for_connections_in_use() -> None:
    now = [0.0]
    connections = Connections(clock=lambda: now[0])
    during: list[bool] = []

    async def answer(request: web.Request) -> web.Response:
        now[0] += 1
        during.append(connections.quiet())
        return web.Response(text="x")

    app = web.Application()
    app.router.add_get("/", answer)
    connections.watch(app)
    async with TestClient(TestServer(app)) as client:
        assert connections.quiet()
        await (await client.get("/")).read()
        assert during == [False]
        assert not connections.quiet()  # the client may ask again at once
        now[0] += SILENT_SECONDS
        assert connections.quiet()
        await (await client.get("/")).read()
        connections.draining = True
        response = await client.get("/")
        assert response.headers["Connection"] == "close"
        await response.read()
        assert connections.quiet()  # nobody can ask on a closed connection


async def test_a_client_that_never_pauses_can_reach_a_new_pod_after_ten_seconds() -> None:
    now = [0.0]
    connections = Connections(clock=lambda: now[0])

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="x")

    app = web.Application()
    app.router.add_get("/", answer)
    connections.watch(app)
    closed = []
    async with TestClient(TestServer(app)) as client:
        for second in range(25):
            now[0] = float(second)
            response = await client.get("/")
            await response.read()
            if response.headers.get("Connection") == "close":
                closed.append(second)
    assert closed == [10, 21]  # the connection of the request after that is a new one
