"""The proxy before a real engine: same API, our ids, metrics, drift counters, readiness."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from unit.server.processes import Process, Start, wait_for

MESSAGES: Any = [{"role": "user", "content": "my card has not arrived"}]


@pytest.fixture
async def client(proxy: Process) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0) as found:
        yield found


async def chat(client: AsyncOpenAI, **more: Any) -> Any:
    return await client.chat.completions.create(model="desk", messages=MESSAGES, temperature=0, max_tokens=8, **more)


async def test_answers_as_the_engine_does_under_an_id_of_its_own(
    engine: Process, proxy: Process, client: AsyncOpenAI
) -> None:
    direct = AsyncOpenAI(base_url=f"http://127.0.0.1:{engine.ports['engine']}/v1", api_key="none")
    expected, found = await chat(direct), await chat(client)
    assert found.choices[0].message.content == expected.choices[0].message.content
    assert found.usage == expected.usage
    assert found.id.startswith("resp-")
    assert (await chat(client)).id != found.id
    chunks = [chunk async for chunk in await chat(client, stream=True)]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == expected.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].id.startswith("resp-")
    assert [model.id async for model in client.models.list()] == ["desk"]
    await direct.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dumped", [False, True])
async def test_a_conversation_goes_on_with_the_clients_own_messages(
    client: AsyncOpenAI, stream: bool, dumped: bool
) -> None:
    """Three turns, each answer appended as the client gives it; the whole history counts."""
    messages: list[Any] = [{"role": "developer", "content": "be brief"}]
    tokens = []
    for question in ("my card", "refund, please!", "top up"):
        messages.append({"role": "user", "content": question})
        answer: Any = await client.chat.completions.create(
            model="desk", messages=messages, temperature=0, max_tokens=8, stop=[], tools=[], user="u-7"
        )
        tokens.append(answer.usage.prompt_tokens)
        if stream:
            chunks: Any = await client.chat.completions.create(
                model="desk", messages=messages, temperature=0, max_tokens=8, stream=True, reasoning_effort="low"
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
            assert text == answer.choices[0].message.content
        message = answer.choices[0].message
        messages.append(message.model_dump() if dumped else message)
    assert tokens[0] < tokens[1] < tokens[2]


async def test_a_model_has_a_card(client: AsyncOpenAI, engine: Process) -> None:
    (listed,) = [model async for model in client.models.list()]
    assert await client.models.retrieve("desk") == listed
    with pytest.raises(openai.NotFoundError, match="'gpt' is not served here") as caught:
        await client.models.retrieve("gpt")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{engine.ports['engine']}/v1", api_key="none") as direct:
        assert await direct.models.retrieve("desk") == listed
        with pytest.raises(openai.NotFoundError, match="'org/gpt' is not served here"):
            await direct.models.retrieve("org/gpt")


async def test_a_slash_at_the_end_changes_nothing(proxy: Process, engine: Process) -> None:
    body = {"prompt": "my card", "temperature": 0, "max_tokens": 3}
    chat = {"messages": MESSAGES, "temperature": 0, "max_tokens": 3}
    before = proxy.metric("driftloop_requests_total", route="/v1/completions", code="200")
    models = proxy.metric("driftloop_requests_total", route="/v1/models", code="200")
    async with aiohttp.ClientSession() as session:
        for base in (proxy.url, f"http://127.0.0.1:{engine.ports['engine']}"):
            for path, sent, part in (("/v1/completions", body, "choices"), ("/v1/chat/completions", chat, "choices")):
                plain = await (await session.post(base + path, json=sent)).json()
                slashed = await (await session.post(f"{base}{path}/", json=sent)).json()
                assert slashed[part] == plain[part]
            for path in ("/v1/models", "/v1/models/desk"):
                plain = await (await session.get(base + path)).json()
                assert await (await session.get(f"{base}{path}/")).json() == plain
    assert proxy.metric("driftloop_requests_total", route="/v1/completions", code="200") == before + 2
    assert proxy.metric("driftloop_requests_total", route="/v1/models", code="200") == models + 4


async def test_the_engines_refusal_reaches_the_client(client: AsyncOpenAI, proxy: Process) -> None:
    before = proxy.metric("driftloop_requests_total", route="/v1/completions", code="400")
    with pytest.raises(openai.BadRequestError, match="context is 256 tokens"):
        await client.completions.create(model="desk", prompt="my card", max_tokens=300)
    with pytest.raises(openai.BadRequestError, match="continues a prompt"):
        await client.completions.create(model="desk", prompt="my card", suffix="x")
    assert proxy.metric("driftloop_requests_total", route="/v1/completions", code="400") == before + 2


async def test_only_the_apis_paths_lead_to_the_engine(proxy: Process) -> None:
    async with aiohttp.ClientSession(proxy.url) as session:
        for method, path, body, status in [
            ("GET", "/metrics", None, 404),
            ("GET", "/health", None, 404),
            ("POST", "/v1/feedback", b"{}", 404),
            ("GET", "/v1/completions", None, 405),
            ("POST", "/v1/completions", b"{", 400),
            ("POST", "/v1/completions", b"x" * (5 << 20), 413),
        ]:
            response = await session.request(method, path, data=body)
            assert response.status == status
            assert (await response.json())["error"]["message"]


async def test_requests_latency_and_the_engines_metrics_are_exported(client: AsyncOpenAI, proxy: Process) -> None:
    labels = {"inference_service": "desk", "revision": "r1", "model_version": "desk-0a1b2c3d"}
    route = {"route": "/v1/chat/completions"}
    before = proxy.metric("driftloop_requests_total", **labels, **route, code="200")
    await chat(client)
    assert proxy.metric("driftloop_requests_total", **labels, **route, code="200") == before + 1
    assert proxy.metric("driftloop_request_duration_seconds_count", **labels, **route) >= before + 1
    assert proxy.metric("vllm:generation_tokens_total") >= 8
    timed = proxy.metric("driftloop_time_per_output_token_seconds_count", **labels, **route)
    await client.chat.completions.create(
        model="desk", messages=[{"role": "user", "content": "my card"}], max_tokens=20, extra_body={"ignore_eos": True}
    )
    assert proxy.metric("driftloop_time_per_output_token_seconds_count", **labels, **route) == timed + 1
    wait_for(lambda: proxy.metric("vllm:num_requests_running") == 0)  # counted after the answer is given


async def test_endings_lengths_and_first_tokens_are_counted(client: AsyncOpenAI, proxy: Process) -> None:
    route = {"route": "/v1/chat/completions"}

    def seen() -> tuple[float, float, float]:
        return (
            proxy.metric("driftloop_answers_total", **route, ending="cut"),
            proxy.metric("driftloop_answer_tokens_sum", **route),
            proxy.metric("driftloop_time_to_first_token_seconds_count", **route),
        )

    cut, tokens, first = seen()
    await chat(client, extra_body={"ignore_eos": True})
    assert seen() == (cut + 1, tokens + 8, first)
    streamed = await chat(client, stream=True, stream_options={"include_usage": True}, extra_body={"ignore_eos": True})
    assert [chunk async for chunk in streamed]
    assert seen() == (cut + 2, tokens + 16, first + 1)


async def test_each_answered_request_falls_into_one_bin_of_each_signal(client: AsyncOpenAI, proxy: Process) -> None:
    def bins(signal: str) -> float:
        return sum(
            value
            for series, value in proxy.metrics().items()
            if series.startswith("driftloop_drift_bin_total{") and f'signal="{signal}"' in series
        )

    before = {signal: bins(signal) for signal in ("surprisal", "oov", "length")}
    # Texts of no other test, as the proxy does not count one that is sent again and again.
    asked: Any = [{"role": "user", "content": "which bin has this question"}]
    await client.chat.completions.create(model="desk", messages=asked, max_tokens=2)
    await client.completions.create(model="desk", prompt="and which bin has this one", max_tokens=2)
    with pytest.raises(openai.BadRequestError):
        await client.completions.create(model="desk", prompt="my card", max_tokens=3000)
    assert {signal: bins(signal) for signal in before} == {signal: count + 2 for signal, count in before.items()}
    masses = [v for series, v in proxy.metrics().items() if series.startswith("driftloop_drift_reference_mass{")]
    assert sum(masses) == pytest.approx(3)  # one for each signal
    assert proxy.metric("driftloop_drift_reference_rows") > 50


async def test_without_an_engine_it_is_alive_not_ready_and_says_503(pods: Start) -> None:
    pod = pods(engine_port=1, ready=False)
    async with aiohttp.ClientSession() as session:
        response = await session.get(f"http://127.0.0.1:{pod.ports['metrics']}/readyz")
        assert response.status == 503
        assert "token" in await response.text()
        answer = await session.post(f"{pod.url}/v1/completions", json={"prompt": "x"})
        assert answer.status == 503
        assert (await answer.json())["error"]["code"] == "engine_unavailable"
        assert answer.headers["Retry-After"]
