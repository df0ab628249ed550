"""Prometheus' answers and pods' pages, over real HTTP: bounded, and nothing that isn't a number."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from driftloop.contract.activity import Activity
from driftloop.contract.names import ACTIVITY_PATH
from driftloop.contract.topics import TopicsReport
from driftloop.controller.runtime.readings import fetch
from driftloop.controller.runtime.readings.activity import read_activity
from driftloop.controller.runtime.readings.prometheus import Prometheus
from driftloop.controller.runtime.readings.scrape import parse, scrape
from driftloop.controller.runtime.readings.topics import read_topics
from driftloop.controller.vocabulary.samples import MetricsUnavailable, Sample


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as found:
        yield found


def vector(*values: str) -> Any:
    result = [{"metric": {"pod": str(index)}, "value": [1.5, value]} for index, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


async def query(session: aiohttp.ClientSession, answer: Any, status: int = 200) -> list[Sample]:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(answer, status=status) if not isinstance(answer, str) else web.Response(text=answer)

    app = web.Application()
    app.add_routes([web.get("/api/v1/query", handler)])
    async with TestServer(app) as server:
        return await Prometheus(session, str(server.make_url("/"))).query("up")


async def test_numbers_come_with_their_labels(session: aiohttp.ClientSession) -> None:
    found = await query(session, vector("1.25", "3"))
    assert found == [Sample({"pod": "0"}, 1.25), Sample({"pod": "1"}, 3.0)]


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
async def test_what_is_no_number_makes_the_answer_unknown(session: aiohttp.ClientSession, value: str) -> None:
    with pytest.raises(MetricsUnavailable, match="not a finite number"):
        await query(session, vector("1.25", value))


@pytest.mark.parametrize(
    "answer",
    [
        "not json",
        [],
        {},
        {"data": {"resultType": "scalar", "result": [1, "1"]}},
        {"data": {"resultType": "vector", "result": [{"metric": {}, "value": [1]}]}},
        {"data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "x"]}]}},
    ],
)
async def test_an_answer_of_another_shape_is_no_answer(session: aiohttp.ClientSession, answer: Any) -> None:
    with pytest.raises(MetricsUnavailable):
        await query(session, answer)


async def test_errors_are_told(session: aiohttp.ClientSession) -> None:
    with pytest.raises(MetricsUnavailable, match="503"):
        await query(session, {"status": "error"}, status=503)
    with pytest.raises(MetricsUnavailable, match="--prometheus-url"):
        await Prometheus(session, None).query("up")
    with pytest.raises(MetricsUnavailable, match=r"127\.0\.0\.1:9"):
        await Prometheus(session, "http://127.0.0.1:9").query("up")


async def test_too_much_and_too_slow_are_cut_off(session: aiohttp.ClientSession) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(10_000):
            await answer.write(b"x" * 1000)
        return answer

    async def drip(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x")
            await asyncio.sleep(0.05)

    app = web.Application()
    app.add_routes([web.get("/flood", flood), web.get("/drip", drip)])
    async with TestServer(app) as server:
        with pytest.raises(MetricsUnavailable, match="more than 100000 bytes"):
            await fetch.fetch(session, str(server.make_url("/flood")), None, 100_000, 10)
        with pytest.raises(MetricsUnavailable, match="TimeoutError"):
            await fetch.fetch(session, str(server.make_url("/drip")), None, 100_000, 0.3)


async def test_a_pod_is_scraped_by_its_address(session: aiohttp.ClientSession) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text='# TYPE a gauge\na{x="1"} 2.5\na{x="2"} NaN\n')

    app = web.Application()
    app.add_routes([web.get("/metrics", page)])
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port is not None
        pod = {"metadata": {"name": "p"}, "status": {"podIP": "127.0.0.1"}}
        assert await scrape(session, pod, server.port) == [Sample({"__name__": "a", "x": "1"}, 2.5)]
    with pytest.raises(MetricsUnavailable, match="no IP"):
        await scrape(session, {"metadata": {"name": "p"}}, 9090)


TOPIC = {"terms": ["x"], "before": "0.0100", "since": "0.2000", "requests": 40}


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ({"before": 90, "since": 40, "grown": 0, "topics": []}, None),
        ({"before": 90}, "not an answer about topics"),
        ({"before": 90, "since": 40, "topics": [{"terms": ["x"]}] * 4}, "not an answer about topics"),
        ({"before": 90, "since": 40, "topics": [TOPIC | {"before": "few"}]}, "not an answer about topics"),
        ({"before": 90, "since": 40, "topics": [TOPIC | {"since": "nan"}]}, "not an answer about topics"),
        (404, "404"),
        (429, "429"),
    ],
)
async def test_a_pod_is_asked_about_its_topics(session: aiohttp.ClientSession, answer: Any, fault: str | None) -> None:
    async def page(request: web.Request) -> web.Response:
        assert dict(request.query) == {"since": "2026-03-01T12:00:00+00:00", "together": "1.50"}
        return web.Response(status=answer) if isinstance(answer, int) else web.json_response(answer)

    app = web.Application()
    app.add_routes([web.get("/driftloop/topics", page)])
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port is not None
        pod = {"metadata": {"name": "p"}, "status": {"podIP": "127.0.0.1"}}
        asking = read_topics(session, pod, server.port, datetime(2026, 3, 1, 12, tzinfo=UTC), 1.5)
        if fault is None:
            assert await asking == TopicsReport(before=90, since=40, grown=0)
        else:
            with pytest.raises(MetricsUnavailable, match=fault):
                await asking


def test_a_page_of_another_format_is_no_answer() -> None:
    with pytest.raises(MetricsUnavailable, match="exposition format"):
        parse("<html>")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ({"running": 2, "held": 1, "idleSeconds": 0}, None),
        ({"running": 0}, None),
        ({"running": -1}, "not an answer about requests"),
        ({"running": 0, "idleSeconds": -5}, "not an answer about requests"),
        ({}, "not an answer about requests"),
        ([], "not an answer about requests"),
        (404, "404"),
    ],
    ids=str,
)
async def test_a_pod_is_asked_how_busy_it_is(session: aiohttp.ClientSession, answer: Any, fault: str | None) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(status=answer) if isinstance(answer, int) else web.json_response(answer)

    app = web.Application()
    app.add_routes([web.get(ACTIVITY_PATH, page)])
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port is not None
        pod = {"metadata": {"name": "p"}, "status": {"podIP": "127.0.0.1"}}
        asking = read_activity(session, pod, server.port)
        if fault is None:
            assert await asking == Activity.model_validate(answer)
        else:
            with pytest.raises(MetricsUnavailable, match=fault):
                await asking
