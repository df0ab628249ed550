"""The proxy before another OpenAI-compatible server: one that speaks as vLLM does, and fails in every way."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from driftloop.api.engine import EngineAdapters
from driftloop.cli.gating.ports import free_ports
from unit.server.processes import Process, Start, answers, wait_for

Session = aiohttp.ClientSession
TIMEOUT = 4  # seconds
THINKING = 1.2  # twice in a stream
PIECES = ["Hel", "lo ", "wörld"]


@dataclass
class Engine:
    port: int
    last_headers: dict[str, str]
    last_path: str = ""
    last_body: bytes = b""
    health: int | None = 200  # of GET /health; None: it hangs
    models: tuple[str, ...] = ("desk", "org/adapter")


def drop(request: web.Request) -> None:
    """Break the connection, as a killed engine does."""
    assert request.transport is not None
    request.transport.abort()


@pytest.fixture(scope="module")
def pod(pods: Start) -> Process:
    """The proxy; its engine comes and goes with each test."""
    (port,) = free_ports(1)
    return pods(request_timeout_seconds=TIMEOUT, ready=False, engine_port=port, engine_type="vllm", feedback_uri=None)


@pytest.fixture
async def other(pod: Process) -> AsyncIterator[Engine]:
    """vLLM's answers to the letter where the proxy touches them, its refusals, and its faults by the prompt's text."""
    found = Engine(pod.ports["engine"], {})

    async def completions(request: web.Request) -> web.StreamResponse:
        found.last_headers, found.last_body = dict(request.headers), await request.read()
        found.last_path = request.path
        body = json.loads(found.last_body)
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        if prompt == "refuse":
            error = {"message": "max_tokens is too large", "type": "BadRequestError", "param": None, "code": 400}
            return web.json_response({"error": error}, status=400)
        if prompt == "crash":
            return web.json_response({"error": {"message": "EngineDead"}}, status=500)
        if prompt == "drop":
            drop(request)
        if prompt == "hang":
            await asyncio.sleep(60)
        if prompt == "think":
            await asyncio.sleep(THINKING)
        if prompt == "garbage":
            return web.Response(text="<html>", content_type="text/html")
        if not body.get("stream"):
            choice = {"index": 0, "text": "".join(PIECES), "finish_reason": "stop", "stop_reason": None}
            usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
            named = {"id": "cmpl-1", "object": "text_completion", "model": body.get("model", "BASE")}
            return web.json_response(named | {"choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        named = {"id": "cmpl-1", "model": body.get("model", "BASE")}
        events = [json.dumps(named | {"choices": [{"index": 0, "text": piece}]}) for piece in PIECES]
        data = "".join(f"data: {event}\n\n" for event in events).encode() + b": a comment\n\ndata: [DONE]\n\n"
        if prompt == "fail":  # as vLLM's engine dies in a stream: an error, and a regular end
            data = data.replace(b": a comment", b'data: {"error": {"message": "EngineDead", "code": 400}}')
        for i, byte in enumerate(data):  # cut anywhere, in the middle of a character too
            await response.write(bytes([byte]))
            if prompt == "break off" and i == len(data) // 2:
                drop(request)
                return response
            if prompt == "stall" and i == len(data) // 2:
                await asyncio.sleep(60)
            if prompt == "think" and i == len(data) // 2:
                await asyncio.sleep(THINKING)
        return response

    async def models(request: web.Request) -> web.Response:
        cards = [{"id": name, "object": "model", "owned_by": "vllm"} for name in found.models]
        return web.json_response({"object": "list", "data": cards})

    async def health(request: web.Request) -> web.Response:
        if found.health is None:
            await asyncio.sleep(60)
        return web.Response(status=found.health or 500)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text="# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 7\npython_info 1\n")

    app = web.Application()
    app.router.add_post("/v1/completions", completions)
    app.router.add_post("/v1/chat/completions", completions)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health", health)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", found.port).start()
    yield found
    await runner.cleanup()


@pytest.fixture
async def http(pod: Process, other: Engine) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(pod.url) as session:
        yield session


async def counted(pod: Process, code: int) -> float:
    """Completions that ended with `code`. The engine is in this process: asking must not block it."""
    return await asyncio.to_thread(
        lambda: pod.metric("driftloop_requests_total", route="/v1/completions", code=str(code))
    )


async def test_answers_and_streams_pass_with_the_proxys_id(http: Session, pod: Process) -> None:
    whole = await (await http.post("/v1/completions", json={"prompt": "x"})).json()
    assert whole["id"].startswith("resp-")
    assert whole["choices"][0]["text"] == "Hello wörld"
    assert whole["choices"][0]["stop_reason"] is None  # what we don't know stays
    async with http.post("/v1/completions", json={"prompt": "x", "stream": True}) as response:
        lines = (await response.text()).splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [event["choices"][0]["text"] for event in events] == PIECES
    assert {event["id"][:5] for event in events} == {"resp-"}
    assert [line for line in lines if line and not line.startswith("data: {")] == [": a comment", "data: [DONE]"]


async def test_only_the_engines_metrics_under_vllms_names_are_passed_on(pod: Process, http: Session) -> None:
    samples = await asyncio.to_thread(pod.metrics)
    assert samples["vllm:num_requests_running"] == 7
    assert "python_info" not in samples


async def test_an_engine_that_hangs_or_is_dead_inside_is_told_to_the_kubelet(pod: Process, other: Engine) -> None:
    url = f"http://127.0.0.1:{pod.ports['metrics']}/enginez"
    async with aiohttp.ClientSession() as session:
        for health, status in ((200, 200), (503, 503), (None, 503), (404, 200)):
            other.health = health
            assert (await session.get(url)).status == status


@dataclass
class Loading:
    """A server that listens at once and loads its model afterwards, as llama.cpp's does, and that only chats."""

    port: int
    loaded: int = 503  # status of GET /loaded


@pytest.fixture
async def loading() -> AsyncIterator[Loading]:
    (port,) = free_ports(1)
    found = Loading(port)

    async def ready(request: web.Request) -> web.Response:
        return web.Response(status=found.loaded)

    async def chat(request: web.Request) -> web.Response:
        choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return web.json_response({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

    app = web.Application()
    app.router.add_get("/loaded", ready)
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield found
    await runner.cleanup()


async def test_a_custom_engine_loads_in_peace_and_is_ready_once_its_path_says_so(pods: Start, loading: Loading) -> None:
    """Without completions, metrics and /health: the proxy needs none of them."""
    pod = await asyncio.to_thread(
        pods,
        engine_type="custom",
        readiness_path="/loaded",
        ready=False,
        engine_port=loading.port,
        feedback_uri=None,
    )
    metrics = f"http://127.0.0.1:{pod.ports['metrics']}"
    async with aiohttp.ClientSession() as session:

        async def status(path: str) -> int:
            return (await session.get(metrics + path)).status

        assert (await status("/enginez"), await status("/readyz")) == (200, 503)
        assert "GET /loaded returns status 503" in await (await session.get(f"{metrics}/readyz")).text()
        loading.loaded = 204
        await asyncio.to_thread(wait_for, lambda: answers(f"{metrics}/readyz"), 20)
        assert await status("/enginez") == 200
        assert await status("/metrics") == 200
        loading.loaded = 503  # it was loaded: now this is a fault
        assert await status("/enginez") == 503
        answer = await session.post(f"{pod.url}/v1/chat/completions", json={"messages": []})
        assert (await answer.json())["choices"][0]["message"]["content"] == "ok"


async def test_an_engine_that_is_not_there_yet_is_not_restarted(pod: Process) -> None:
    async with aiohttp.ClientSession() as session:
        assert (await session.get(f"http://127.0.0.1:{pod.ports['metrics']}/enginez")).status == 200


async def test_no_header_of_the_clients_reaches_the_engine(http: Session, other: Engine) -> None:
    headers = {"Authorization": "Bearer secret", "X-Anything": "1", "Connection": "keep-alive, X-Anything"}
    headers["X-Driftloop-Client"] = "somebody else"
    body = b'{"prompt":  "x"}'
    assert (await http.post("/v1/completions", data=body, headers=headers)).status == 200
    assert other.last_body == body
    assert set(other.last_headers) == {
        "Host", "Content-Type", "Accept", "Accept-Encoding", "User-Agent", "Content-Length", "X-Driftloop-Client"
    }  # fmt: skip
    assert other.last_headers["X-Driftloop-Client"] == "127.0.0.1"  # the proxy's word, not the client's


async def test_what_traces_a_request_reaches_the_engine(http: Session, other: Engine) -> None:
    traces = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
        "X-Request-Id": "req-7",
    }
    await http.post("/v1/completions", json={"prompt": "x"}, headers=traces)
    received = {name.lower(): value for name, value in other.last_headers.items()}
    assert {name.lower(): value for name, value in traces.items()}.items() <= received.items()
    await http.post(
        "/v1/completions", json={"prompt": "x"}, headers={"X-Request-Id": "é" * 9, "traceparent": "a" * 600}
    )
    assert not {"x-request-id", "traceparent"} & {name.lower() for name in other.last_headers}


async def test_what_the_built_in_engine_refuses_is_for_the_engine_to_say(http: Session, other: Engine) -> None:
    asked = {
        "model": "desk",
        "n": 3,
        "logit_bias": {"1": 5},
        "top_k": 10**30,
        "frequency_penalty": 0.5,
        "new": {"a": [1]},
    }
    for path, more in (
        ("/v1/completions", {"prompt": "x", "echo": True}),
        ("/v1/chat/completions", {
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}] * 3000
            + [{"role": "user", "content": "x"}],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        }),
    ):  # fmt: skip
        body = json.dumps(asked | more).encode()
        assert (await http.post(f"{path}/", data=body)).status == 200
        assert (other.last_path, other.last_body) == (path, body)


@pytest.mark.parametrize("size", [10, 200_000])
async def test_half_a_character_never_reaches_the_engine(http: Session, other: Engine, size: int) -> None:
    body = b'{"prompt": "' + b"a" * size + b'\\ud83d"}'
    async with http.post("/v1/completions", data=body) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (400, "invalid_unicode")
    assert other.last_body == b""


async def test_a_long_prompt_that_the_engine_takes_is_counted_as_a_short_one(
    http: Session, other: Engine, pod: Process
) -> None:
    def looked_at() -> float:
        counts = (value for name, value in pod.metrics().items() if name.startswith("driftloop_drift_bin_total"))
        return sum(counts)

    before = looked_at()
    for prompt in ("a b c", "a b c " * 30_000):
        assert (await http.post("/v1/completions", json={"prompt": prompt})).status == 200
        before, counted = looked_at(), looked_at() - before
        assert counted > 0


async def test_a_card_is_taken_from_the_engines_list(http: Session) -> None:
    assert (await (await http.get("/v1/models/desk")).json())["owned_by"] == "vllm"
    assert (await (await http.get("/v1/models/org/adapter/")).json())["id"] == "org/adapter"
    missing = await http.get("/v1/models/gpt")
    assert missing.status == 404
    assert (await missing.json())["error"]["code"] == "model_not_found"


async def test_silence_is_no_failure_while_the_time_of_a_request_lasts(http: Session) -> None:
    whole = await http.post("/v1/completions", json={"prompt": "think"})
    assert (await whole.json())["choices"][0]["text"] == "Hello wörld"
    async with http.post("/v1/completions", json={"prompt": "think", "stream": True}) as response:
        assert (await response.text()).endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [("drop", 502, "engine_failed"), ("garbage", 502, "engine_failed"), ("hang", 504, "engine_timeout")],
)
async def test_a_failing_engine_is_an_error_that_says_so(
    http: Session, pod: Process, prompt: str, status: int, code: str
) -> None:
    before = await counted(pod, status)
    response = await http.post("/v1/completions", json={"prompt": prompt})
    assert response.status == status
    error = (await response.json())["error"]
    assert error["code"] == code
    assert ("requestTimeoutSeconds" in error["message"]) == (status == 504)
    assert await counted(pod, status) == before + 1


async def test_the_engines_own_errors_keep_their_status(http: Session) -> None:
    refused = await http.post("/v1/completions", json={"prompt": "refuse"})
    assert (refused.status, (await refused.json())["error"]["message"]) == (400, "max_tokens is too large")
    crashed = await http.post("/v1/completions", json={"prompt": "crash"})
    assert (crashed.status, (await crashed.json())["error"]["message"]) == (500, "EngineDead")


@pytest.mark.parametrize(
    ("prompt", "code", "explains"),
    [("break off", 502, "the engine aborted"), ("stall", 504, f"took longer than this service's {TIMEOUT} s")],
)
async def test_a_stream_that_breaks_ends_with_an_error_event_and_counts_as_one(
    http: Session, pod: Process, prompt: str, code: int, explains: str
) -> None:
    before = await counted(pod, code)
    async with http.post("/v1/completions", json={"prompt": prompt, "stream": True}) as response:
        text = await response.text()
    assert "[DONE]" not in text
    assert explains in json.loads(text.splitlines()[-2][6:])["error"]["message"]
    assert await counted(pod, code) == before + 1


async def test_a_failure_that_the_engine_reports_in_a_stream_counts_as_one(http: Session, pod: Process) -> None:
    """The canary took a candidate whose streams all broke for one without failures."""
    failed, answered = await counted(pod, 500), await counted(pod, 200)
    async with http.post("/v1/completions", json={"prompt": "fail", "stream": True}) as response:
        assert "EngineDead" in await response.text()
    assert (await counted(pod, 500), await counted(pod, 200)) == (failed + 1, answered)


@pytest.fixture
async def adapter(pods: Start, other: Engine) -> Process:
    """A pod whose engine adds an adapter to a base."""
    other.models = ("BASE", "desk-0a1b2c3d")
    bases = ("pvc://models/base",)
    return await asyncio.to_thread(
        pods,
        engine_type="vllm",
        adapters=EngineAdapters(),
        artefact_bases=bases,
        engine_port=other.port,
        feedback_uri=None,
    )


async def test_an_adapter_is_asked_for_by_its_name_and_answers_under_that_of_the_service(
    adapter: Process, other: Engine
) -> None:
    """vLLM gives a request without a name its base."""
    assert json.loads(other.last_body)["model"] == "desk-0a1b2c3d"  # the readiness probe
    async with aiohttp.ClientSession(adapter.url) as session:
        for named in ({}, {"model": "desk"}):
            whole = await (await session.post("/v1/completions", json=named | {"prompt": "é"})).json()
            assert whole["model"] == "desk"
            assert json.loads(other.last_body) == {"prompt": "é", "model": "desk-0a1b2c3d"}
            body = named | {"prompt": "x", "stream": True}
            lines = (await (await session.post("/v1/completions", json=body)).text()).splitlines()
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
            assert {event["model"] for event in events} == {"desk"}
        (card,) = (await (await session.get("/v1/models")).json())["data"]
        assert card["id"] == "desk"
        assert await (await session.get("/v1/models/desk")).json() == card
        for name in ("BASE", "desk-0a1b2c3d"):
            assert (await session.get(f"/v1/models/{name}")).status == 404
            answer = await session.post("/v1/completions", json={"model": name, "prompt": "x"})
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "model_not_found"
