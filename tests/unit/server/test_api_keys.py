"""A service that asks for API keys: who may call it, as the official client and Prometheus see it."""

import hashlib
import json
from pathlib import Path

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from driftloop.contract.task import ServeTask
from unit.server.processes import KEYS, Process, Start

CHAT = {"model": "desk", "messages": [{"role": "user", "content": "my card"}], "max_tokens": 2}


def entry(key: str, **fields: object) -> str:
    return json.dumps({"sha256": [hashlib.sha256(key.encode()).hexdigest()]} | fields)


@pytest.fixture(scope="module")
def pod(pods: Start, tmp_path_factory: pytest.TempPathFactory) -> Process:
    folder = tmp_path_factory.mktemp("api-keys")
    (folder / "team-a").write_text(entry("key-of-a"))
    (folder / "team-b").write_text(entry("key-of-b", requestsPerMinute=2))
    return pods(
        api_keys_secret="keys",
        environment={"DRIFTLOOP_API_KEYS": str(folder)},
        allowed_origins=("https://chat.example.org",),
    )


async def test_the_official_client_gets_in_with_its_key_and_streams(pod: Process) -> None:
    async with AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="key-of-a") as client:
        answer = await client.chat.completions.create(**CHAT)  # type: ignore[call-overload]
        assert answer.usage.completion_tokens == 2
        counted = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = await client.chat.completions.create(**CHAT, **counted)  # type: ignore[call-overload]
        assert [chunk async for chunk in chunks]
    assert pod.metric("driftloop_client_requests_total", client="team-a", code="200") == 2
    assert pod.metric("driftloop_client_output_tokens_total", client="team-a") == 4


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/metrics", "/v1/feedback"])
async def test_nobody_else_gets_in_and_no_canary_counts_it(pod: Process, path: str) -> None:
    async with aiohttp.ClientSession() as session:
        for headers, message in (
            ({}, "send Authorization: Bearer KEY"),
            ({"Authorization": "Basic a2V5LW9mLWE="}, "send Authorization: Bearer KEY"),
            ({"Authorization": "Bearer key-of-c"}, "not known here"),
        ):
            async with session.post(f"{pod.url}{path}", json=CHAT, headers=headers) as answer:
                document = await answer.json()
                assert (answer.status, document["error"]["code"]) == (401, "invalid_api_key")
                assert message in document["error"]["message"]
                assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not [series for series in pod.metrics() if 'code="401"' in series]


async def test_a_wrong_key_is_the_official_clients_error(pod: Process) -> None:
    async with AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="key-of-c", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="not known here"):
            await client.models.list()


async def test_a_client_above_its_limit_waits_and_no_canary_counts_it(pod: Process) -> None:
    async with AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="key-of-b", max_retries=0) as client:
        for _ in range(2):
            await client.models.list()
        with pytest.raises(openai.RateLimitError, match="team-b may send 2 requests per minute") as caught:
            await client.models.list()
    assert 20 <= int(caught.value.response.headers["Retry-After"]) <= 31
    assert pod.metric("driftloop_client_requests_total", client="team-b", code="429") == 1
    assert pod.metric("driftloop_requests_total", route="/v1/models", code="429") == 0


async def test_a_browsers_preflight_needs_no_key_and_may_send_one(pod: Process) -> None:
    asks = {
        "Origin": "https://chat.example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    async with aiohttp.ClientSession() as session:
        async with session.options(f"{pod.url}/v1/chat/completions", headers=asks) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Headers"]) == (204, "authorization")
        # The page learns why it is refused.
        async with session.post(f"{pod.url}/v1/chat/completions", json=CHAT, headers=asks) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (401, asks["Origin"])


async def test_probes_and_metrics_have_their_own_port_and_need_no_key(pod: Process) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("readyz", "healthz", "metrics"):
            async with session.get(f"http://127.0.0.1:{pod.ports['metrics']}/{path}") as answer:
                assert answer.status == 200


def test_a_pod_without_a_single_key_says_what_to_create(launch: Start, serve_task: ServeTask, tmp_path: Path) -> None:
    task = serve_task.model_copy(update={"api_keys_secret": "desk-keys"})
    ending = tmp_path / "ending"
    process = launch(
        "proxy", task, **KEYS, DRIFTLOOP_API_KEYS=str(tmp_path / "absent"), DRIFTLOOP_TERMINATION_LOG=str(ending)
    )
    assert process.popen.wait(60) == 78
    assert "Secret desk-keys has no API key that can be read" in ending.read_text()
