"""A stream ends regularly, or with what went wrong."""

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from driftloop_server.engine.replies import Reply
from driftloop_server.engine.sequence import Output
from driftloop_server.engine.server import Numbered, _stream
from driftloop_server.engine.thoughts import Thoughts

REPLY = Reply("cmpl-1", "desk", 0, 1, is_chat=False, string=str)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (Output("lo", finish_reason="stop"), ["Hel", "lo", "[DONE]"]),
        (Output(error="the model failed"), ["Hel", "the model failed"]),
    ],
)
async def test_a_stream_that_fails_ends_with_its_error_and_without_done(last: Output, expected: list[str]) -> None:
    async def outputs() -> AsyncIterator[Numbered]:
        yield 0, last

    async def handler(request: web.Request) -> web.StreamResponse:
        return await _stream(request, REPLY, (0, Output("Hel")), outputs(), 1, False)

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


async def test_thoughts_are_fields_of_their_own_in_whole_answers_and_streams() -> None:
    def reply(begun: bool = False) -> Reply:
        return Reply("chatcmpl-1", "desk", 0, 1, is_chat=True, string=str, thoughts=[Thoughts(begun)])

    text = "<think>\nIt is lost.</think>\n\ncard_lost"
    message = reply().whole([Output(text, finish_reason="stop")])["choices"][0]["message"]
    thought = {"reasoning": "It is lost.", "reasoning_content": "It is lost."}
    assert message == {"role": "assistant", "refusal": None, "content": "card_lost"} | thought
    streamed, deltas = reply(), []
    for at, letter in enumerate(text):
        last = at == len(text) - 1
        chunk = streamed.chunk(Output(letter, finish_reason="stop" if last else None))
        deltas.append(chunk["choices"][0]["delta"])
    for name, expected in {"content": "card_lost", **thought}.items():
        assert "".join(delta.get(name, "") for delta in deltas) == expected
    cut = reply(begun=True).whole([Output("It is", finish_reason="length")])["choices"][0]["message"]
    assert (cut["content"], cut["reasoning"]) == (None, "It is")
    assert reply().whole([Output("", finish_reason="stop")])["choices"][0]["message"]["content"] == ""
