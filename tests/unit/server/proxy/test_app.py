"""A long body waits for its turn, and takes no memory meanwhile. Refusals without end are slowed down."""

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from driftloop.contract.names import SHADOW_HEADER, Metric
from driftloop.contract.task import ServeTask
from driftloop_server.openai_api import COMPLETIONS
from driftloop_server.proxy.activity import Busy
from driftloop_server.proxy.app import Api
from driftloop_server.proxy.bodies import MAX_BODY, SMALL, Bodies
from driftloop_server.proxy.clients import KeyCheck
from driftloop_server.proxy.cors import Cors
from driftloop_server.proxy.metrics import ProxyMetrics
from driftloop_server.proxy.mirror import Settings
from driftloop_server.proxy.names import Names
from driftloop_server.proxy.pace import REFUSALS
from driftloop_server.proxy.room import HELD, Room
from driftloop_server.proxy.upstream import Upstream
from unit.server.processes import wait_for


class Pace:
    """Lets every body in at once. `asked`: for what sizes, and the memory in use then."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def delay(self, client: str, size: int) -> float:
        self.asked.append((size, tracemalloc.get_traced_memory()[0]))
        return 0


@pytest.fixture
def pace() -> Iterator[Pace]:
    tracemalloc.start()
    yield Pace()
    tracemalloc.stop()


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.fixture
def metrics() -> ProxyMetrics:
    return ProxyMetrics(
        ServeTask(
            namespace="support",
            service="desk",
            service_uid="uid",
            family="desk",
            version="v1",
            revision="r1",
            artefact_uri="pvc://models/v1",
            artefact_digest="sha256:" + "0" * 64,
        )
    )


@pytest.fixture
def answers() -> asyncio.Event:
    """Whether the engine answers. Clear it to let requests wait."""
    event = asyncio.Event()
    event.set()
    return event


@pytest.fixture
async def client(
    pace: Pace, room: Room, metrics: ProxyMetrics, answers: asyncio.Event
) -> AsyncIterator[TestClient[Any, Any]]:
    """Of an API whose engine refuses everything."""

    async def refuse(request: web.Request) -> web.Response:
        await request.content.readexactly(request.content_length or 0)
        await answers.wait()
        return web.Response(status=400)

    engine = web.Application()
    engine.router.add_post(COMPLETIONS, refuse)
    async with TestServer(engine) as server, Upstream(str(server.make_url("/")), 5) as upstream:
        mirror = Mock(chosen=Mock(return_value=False))
        wanted = Settings(revision="r1", percent=0, latency_ratio=1.5)
        key_check = KeyCheck(None, Mock(), "secret")
        api = Api(
            "v1",
            "r1",
            Names("desk", "desk"),
            upstream,
            Mock(),
            Mock(),
            metrics,
            Mock(),
            Mock(),
            Cors(()),
            key_check,
            mirror,
            wanted,
            Busy(),
        )
        api._bodies = Bodies(pace, room)  # type: ignore[arg-type]
        async with TestClient(TestServer(api.app())) as client:
            yield client


async def test_a_long_body_waits_for_its_turn_unread(client: TestClient[Any, Any], pace: Pace) -> None:
    body = b'{"prompt":"' + b"a" * 3_900_000 + b'"}'
    before = tracemalloc.get_traced_memory()[0]
    assert (await client.post(COMPLETIONS, data=body)).status == 400
    ((size, held),) = pace.asked
    assert size == len(body)
    assert held - before < 1 << 20


async def test_so_does_one_of_too_many_bytes(client: TestClient[Any, Any], pace: Pace) -> None:
    assert (await client.post(COMPLETIONS, data=b"x" * (MAX_BODY + 1))).status == 413
    ((size, _),) = pace.asked
    assert size > MAX_BODY


async def test_one_whose_length_is_not_told_waits_when_it_is_there(client: TestClient[Any, Any], pace: Pace) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"prompt":"' + b"a" * SMALL
        yield b'"}'

    await client.post(COMPLETIONS, data=chunks())
    assert [size for size, _ in pace.asked] == [SMALL + 13]


async def test_a_short_body_waits_for_nothing(client: TestClient[Any, Any], pace: Pace) -> None:
    assert (await client.post(COMPLETIONS, data=b'{"prompt":"' + b"a" * (SMALL - 13) + b'"}')).status == 400
    assert pace.asked == []


async def test_a_body_that_does_not_fit_beside_the_others_is_refused_unread(
    client: TestClient[Any, Any], pace: Pace, room: Room
) -> None:
    with room.holding() as others:
        others(HELD - SMALL)
        answer = await client.post(COMPLETIONS, data=b"x" * (2 * SMALL))
        assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
        assert pace.asked == []
        assert (await client.post(COMPLETIONS, data=b'{"prompt":"a"}')).status == 400
    assert (await client.post(COMPLETIONS, data=b'{"prompt":"' + b"a" * 2 * SMALL + b'"}')).status == 400


async def test_one_whose_length_is_not_told_is_refused_when_it_grows_too_long(
    client: TestClient[Any, Any], room: Room
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * SMALL

    with room.holding() as others:
        others(HELD - SMALL)
        assert (await client.post(COMPLETIONS, data=chunks())).status == 429
    with room.holding() as all_of_it:
        all_of_it(HELD)


async def test_a_client_that_repeats_a_refused_request_is_slowed_to_its_rate(client: TestClient[Any, Any]) -> None:
    began, beyond = time.monotonic(), 10
    for _ in range(int(REFUSALS.burst) + beyond):
        assert (await client.post(COMPLETIONS, data=b'{"prompt":"a"}')).status == 400
    assert time.monotonic() - began >= beyond / REFUSALS.per_second


async def test_a_request_is_in_progress_until_it_is_answered_or_its_client_has_left_and_a_copy_never_is(
    client: TestClient[Any, Any], metrics: ProxyMetrics, answers: asyncio.Event
) -> None:
    labels = {"inference_service": "desk", "revision": "r1", "model_version": "v1"}

    async def becomes(number: int) -> None:
        await asyncio.to_thread(
            wait_for, lambda: metrics.registry.get_sample_value(Metric.IN_PROGRESS, labels) == number
        )

    def ask(**headers: str) -> asyncio.Task[Any]:
        return asyncio.create_task(client.post(COMPLETIONS, json={"prompt": "hello"}, headers=headers))

    await becomes(0)
    answers.clear()
    asked = [ask(), ask()]
    await becomes(2)
    copy = ask(**{SHADOW_HEADER: "secret"})
    asked[0].cancel()
    await becomes(1)
    answers.set()
    await becomes(0)
    assert {(await task).status for task in (asked[1], copy)} == {400}
