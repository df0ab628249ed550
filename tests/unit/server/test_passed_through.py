"""What the built-in engine can't do passes through to an engine that can, with the official client."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from openai import AsyncOpenAI

from driftloop.cli.gating.ports import free_ports
from unit.server.processes import TOKEN, Artefact, Process, Start
from unit.server.test_feedback import rows

TOOL: Any = {"type": "function", "function": {"name": "rate", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "rate", "arguments": "{}"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
PARTS: Any = [
    {"type": "text", "text": "my card"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
]
CHAT: Any = {
    "model": "desk",
    "messages": [{"role": "user", "content": PARTS}],
    "tools": [TOOL],
    "tool_choice": "required",
}
WANTED: Any = {"response_format": SCHEMA, "n": 2, "logprobs": True, "max_completion_tokens": 5}
FLOATS = 2048 * 800  # as JSON longer than an answer that is held


@dataclass
class Engine:
    """The bodies that it got, the last one last, and what it does instead of answering."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""


def response(status: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": "it is lost", "annotations": []}
    message = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [part]}
    usage = {"input_tokens": 2, "output_tokens": 20, "total_tokens": 22}
    done = status == "completed"
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "model": "desk",
        "status": status,
        "output": [message] if done else [],
        "usage": usage if done else None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def events() -> list[dict[str, Any]]:
    place: dict[str, Any] = {"item_id": "m1", "output_index": 0, "content_index": 0, "logprobs": []}
    deltas: list[dict[str, Any]] = [
        {"type": "response.output_text.delta", "delta": text, **place} for text in ("it is", " lost")
    ]
    created = {"type": "response.created", "response": response("in_progress")}
    done = {"type": "response.completed", "response": response("completed")}
    return [{**event, "sequence_number": i} for i, event in enumerate([created, *deltas, done])]


async def streamed(request: web.Request, texts: list[str]) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for text in texts:
        await answer.write(text.encode())
    return answer


@pytest.fixture(scope="module")
def pod(pods: Start, tmp_path_factory: pytest.TempPathFactory) -> Process:
    (port,) = free_ports(1)
    return pods(ready=False, engine_port=port, engine_type="vllm", request_timeout_seconds=20)


@pytest.fixture
async def other(pod: Process) -> AsyncIterator[Engine]:
    """Answers as vLLM does, in the parts that the proxy or the client reads."""
    found = Engine()

    async def asked(request: web.Request) -> dict[str, Any]:
        found.bodies.append(json.loads(await request.read()))
        return found.bodies[-1]

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await asked(request)
        message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        name = "delta" if body.get("stream") else "message"
        choices = [{"index": i, name: message, "finish_reason": "tool_calls"} for i in range(body.get("n", 1))]
        document = {"id": "1", "object": "chat.completion", "created": 0, "model": "desk", "choices": choices}
        if not body.get("stream"):
            return web.json_response(document)
        return await streamed(request, [f"data: {json.dumps(document)}\n\n", "data: [DONE]\n\n"])

    async def responses(request: web.Request) -> web.StreamResponse:
        body = await asked(request)
        if not body.get("stream"):
            return web.json_response(response("completed"))
        sent = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events()]
        return await streamed(request, sent)

    async def embeddings(request: web.Request) -> web.StreamResponse:
        body = await asked(request)
        if found.fault:
            return web.Response(
                status=int(found.fault), text='{"detail": "Not Found"}', content_type="application/json"
            )
        vector = [0.123456789012345678] * (FLOATS if body["input"] == "long" else 2)
        data = [{"object": "embedding", "index": 0, "embedding": vector}]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return web.json_response({"object": "list", "data": data, "model": "desk", "usage": usage})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/responses", responses)
    app.router.add_post("/v1/embeddings", embeddings)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", pod.ports["engine"]).start()
    yield found
    await runner.cleanup()


@pytest.fixture
async def client(pod: Process, other: Engine) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="none", max_retries=0) as found:
        yield found


async def metric(pod: Process, name: str, **labels: str) -> float:
    """The engine is in this process: asking must not block it."""
    return await asyncio.to_thread(lambda: pod.metric(name, **labels))


async def counted(pod: Process, route: str, code: int = 200) -> float:
    return await metric(pod, "driftloop_requests_total", route=f"/v1/{route}", code=str(code))


async def looked_at(pod: Process) -> float:
    samples = await asyncio.to_thread(pod.metrics)
    return sum(value for name, value in samples.items() if name.startswith("driftloop_drift_bin_total"))


async def test_tools_formats_choices_and_parts_reach_the_engine_and_its_calls_the_client(
    client: AsyncOpenAI, other: Engine
) -> None:
    whole = await client.chat.completions.create(**CHAT, **WANTED)
    assert other.bodies[-1] == CHAT | WANTED
    assert [choice.message.tool_calls[0].id for choice in whole.choices] == ["c1", "c1"]
    chunks = [chunk async for chunk in await client.chat.completions.create(**CHAT, **WANTED, stream=True)]
    assert [choice.delta.tool_calls[0].id for choice in chunks[0].choices] == ["c1", "c1"]
    assert chunks[0].id.startswith("resp-")


async def test_a_response_is_answered_counted_and_watched_for_drift(
    client: AsyncOpenAI, other: Engine, pod: Process
) -> None:
    before, answered = await looked_at(pod), await counted(pod, "responses")
    timed = await metric(pod, "driftloop_time_per_output_token_seconds_count", route="/v1/responses")
    found = await client.responses.create(model="desk", input="my card", instructions="Be short.")
    assert found.output_text == "it is lost"
    assert found.id.startswith("resp-")
    assert other.bodies[-1] == {"model": "desk", "input": "my card", "instructions": "Be short."}
    assert await looked_at(pod) == before + 3  # signals
    assert await counted(pod, "responses") == answered + 1
    assert await metric(pod, "driftloop_time_per_output_token_seconds_count", route="/v1/responses") == timed + 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_can_be_corrected_by_its_id(
    client: AsyncOpenAI, pod: Process, artefact: Artefact, stream: bool
) -> None:
    if stream:
        received = [event async for event in await client.responses.create(model="desk", input="my card", stream=True)]
        assert [event.type for event in received] == [event["type"] for event in events()]
        assert len({event.response.id for event in received if hasattr(event, "response")}) == 1
        last: Any = received[-1]
        found = last.response
    else:
        found = await client.responses.create(model="desk", input="my card")
    rating = {"response_id": found.id, "rating": "correction", "correction": "card_lost", "consent": True}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        answer = await session.post(f"http://127.0.0.1:{pod.ports['feedback']}/v1/feedback", json=rating)
        assert (answer.status, (await answer.json())["status"]) == (200, "stored")
    (row,) = [row for row in rows(artefact.volumes) if row["id"] == found.id]
    assert (row["prompt"], row["completion"]) == ("my card", "it is lost")


@pytest.mark.parametrize("field", ["previous_response_id", "conversation", "background"])
async def test_a_response_that_would_need_a_kept_one_is_refused_by_name(client: AsyncOpenAI, field: str) -> None:
    more: Any = {field: True if field == "background" else "resp_1"}
    for text in ("my card", "my card " * 20_000):
        with pytest.raises(openai.BadRequestError, match="send the whole conversation") as caught:
            await client.responses.create(model="desk", input=text, **more)
        assert caught.value.param == field


async def test_embeddings_pass_unchanged_however_long_and_tell_nothing_of_drift(
    client: AsyncOpenAI, other: Engine, pod: Process
) -> None:
    before, answered = await looked_at(pod), await counted(pod, "embeddings")
    found = await client.embeddings.create(model="desk", input=["my card", "refund"], encoding_format="float")
    assert found.data[0].embedding == [0.123456789012345678] * 2
    assert other.bodies[-1]["input"] == ["my card", "refund"]
    async with aiohttp.ClientSession() as session:
        answer = await session.post(f"{pod.url}/v1/embeddings", json={"model": "desk", "input": "long"})
        assert len(await answer.read()) > 32 << 20
    assert await looked_at(pod) == before
    assert await counted(pod, "embeddings") == answered + 2


@pytest.mark.parametrize(
    ("fault", "status", "explains"),
    [("404", 404, "this service's engine has no /v1/embeddings"), ("422", 422, 'status 422: {"detail": "Not Found"}')],
)
async def test_an_engines_error_in_a_form_of_its_own_is_put_into_openais(
    client: AsyncOpenAI, other: Engine, fault: str, status: int, explains: str
) -> None:
    other.fault = fault
    with pytest.raises(openai.APIStatusError) as caught:
        await client.embeddings.create(model="desk", input="my card")
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert explains in caught.value.body["message"]


@pytest.mark.parametrize("route", ["responses", "embeddings"])
async def test_they_have_the_bounds_of_a_chat(client: AsyncOpenAI, pod: Process, route: str) -> None:
    async with aiohttp.ClientSession(pod.url) as session:
        for body, status, code in (
            (b'{"input": "cut \\ud83d off"}', 400, "invalid_unicode"),
            (b'{"input": "' + b"a" * (5 << 20) + b'"}', 413, "body_too_large"),
        ):
            answer = await session.post(f"/v1/{route}", data=body)
            assert (answer.status, (await answer.json())["error"]["code"]) == (status, code)
        assert (await session.get(f"/v1/{route}")).status == 405
        assert (await session.get("/v1/responses/resp_1")).status == 404
