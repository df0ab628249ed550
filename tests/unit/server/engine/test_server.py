"""A stream ends regularly, or with what went wrong."""

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from driftloop_server.engine.replies import Reply
from driftloop_server.engine.sequence import Output
from driftloop_server.engine.server import _stream

REPLY = Reply("cmpl-1", "desk", 0, 1, is_chat=False, string=str)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (Output("lo", finish_reason="stop"), ["Hel", "lo", "[DONE]"]),
        (Output(error="the model failed"), ["Hel", "the model failed"]),
    ],
)
async def test_a_stream_that_fails_ends_with_its_error_and_without_done(last: Output, expected: list[str]) -> None:
    async def outputs() -> AsyncIterator[Output]:
        yield last

    async def handler(request: web.Request) -> web.StreamResponse:
        return await _stream(request, REPLY, Output("Hel"), outputs(), False)

    app = web.Application()
    app.router.add_get("/", handler)
    async with TestClient(TestServer(app)) as client, client.get("/") as answer:
        events = [line.removeprefix("data: ") for line in (await answer.text()).splitlines() if line]
    assert [said(event) for event in events] == expected


def said(event: str) -> str:
    """The text of an event, or its error."""
    if event == "[DONE]":
        return event
    document = json.loads(event)
    return str(document["error"]["message"] if "error" in document else document["choices"][0]["text"])
