"""Nothing is lost: when a pod ends, when connections are recycled, when clients or engines go."""

import asyncio
import json
import signal
import time
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from driftloop.contract.task import ServeTask
from unit.server.processes import Process, Start

LONG = {"prompt": "c", "max_tokens": 240, "temperature": 0, "ignore_eos": True}


async def stream(http: aiohttp.ClientSession, url: str, started: asyncio.Event | None = None) -> list[str]:
    """The data of every event. Raises when the connection breaks."""
    events = []
    async with http.post(f"{url}/v1/completions", json=LONG | {"stream": True}) as response:
        assert response.status == 200
        async for line in response.content:
            if line.startswith(b"data: "):
                events.append(line[6:].decode().strip())
                if started:
                    started.set()
    return events


async def ended(process: Process, seconds: float = 60) -> int:
    return await asyncio.to_thread(process.popen.wait, seconds)


async def test_a_terminating_pod_serves_until_nobody_asks(pods: Start) -> None:
    """Streams end whole, requests go on being answered for a moment, and the process ends with 0."""
    pod = pods()
    async with aiohttp.ClientSession() as http:
        started = asyncio.Event()
        streams = [asyncio.create_task(stream(http, pod.url, started)) for _ in range(4)]
        await started.wait()
        pod.terminate()
        await asyncio.sleep(0.3)
        ready = await http.get(f"http://127.0.0.1:{pod.ports['metrics']}/readyz")
        assert (ready.status, await ready.text()) == (503, "draining\n")
        async with http.post(f"{pod.url}/v1/completions", json={"prompt": "x", "max_tokens": 2}) as late:
            assert late.status == 200
            assert late.headers["Connection"] == "close"
        for events in await asyncio.gather(*streams):
            assert events[-1] == "[DONE]"
            assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
    assert await ended(pod) == 0


async def test_the_drain_is_bounded(pods: Start) -> None:
    pod = pods(drain_seconds=1)
    async with aiohttp.ClientSession() as http:
        # A client that keeps asking: the pod goes all the same.
        async def ask_for_ever() -> None:
            while True:
                await stream(http, pod.url)

        task = asyncio.create_task(ask_for_ever())
        await asyncio.sleep(0.3)
        pod.terminate()
        assert await ended(pod, 10) == 0
        with pytest.raises(aiohttp.ClientError):
            await task


async def test_connections_are_recycled_and_no_request_notices(pods: Start) -> None:
    pod = pods("--connection-requests", "5", "--connection-seconds", "3600")
    closes = 0

    async def count(response: Any) -> None:
        nonlocal closes
        closes += response.headers.get("connection") == "close"

    async with (
        DefaultAsyncHttpxClient(event_hooks={"response": [count]}) as http,
        AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="none", max_retries=0, http_client=http) as client,
    ):

        async def user() -> None:
            for i in range(15):
                if i % 3:
                    await client.completions.create(model="desk", prompt="x", max_tokens=2)
                else:
                    events = await client.completions.create(model="desk", prompt="x", max_tokens=4, stream=True)
                    assert [event async for event in events]

        await asyncio.gather(*(user() for _ in range(8)))
    assert closes >= 8 * 15 // 5 - 8
    async with aiohttp.ClientSession() as session:
        for _ in range(40):
            async with session.post(f"{pod.url}/v1/completions", json={"prompt": "x", "max_tokens": 1}) as response:
                assert response.status == 200


async def test_old_connections_are_recycled(pods: Start) -> None:
    pod = pods("--connection-seconds", "0.5")
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{pod.url}/v1/models") as response:
            assert "Connection" not in response.headers
        await asyncio.sleep(0.6)
        async with http.get(f"{pod.url}/v1/models") as response:
            assert response.headers["Connection"] == "close"


async def test_a_client_that_goes_away_stops_the_engine_too(proxy: Process) -> None:
    def gone() -> float:
        return proxy.metric("driftloop_requests_total", route="/v1/completions", code="499")

    before = gone()
    async with aiohttp.ClientSession() as http:
        started = [asyncio.Event() for _ in range(4)]
        tasks = [asyncio.create_task(stream(http, proxy.url, event)) for event in started]
        await asyncio.gather(*(event.wait() for event in started))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        deadline = time.monotonic() + 60
        while gone() < before + 4 or proxy.metric("vllm:num_requests_running"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_the_engine_outlives_the_proxy(pods: Start, launch: Start, serve_task: ServeTask, free_port: int) -> None:
    """SIGTERM at the same moment: the engine stays until the proxy has drained, and not longer."""
    pod = pods(engine_port=free_port, ready=False)
    # By itself it would end after ten minutes: that it ends within half a minute is the proxy's end.
    changes = {"engine_port": free_port, "metrics_port": pod.ports["metrics"], "drain_seconds": 600}
    engine = launch("engine", serve_task.model_copy(update=changes))
    async with aiohttp.ClientSession() as http:
        deadline = time.monotonic() + 60
        while (await http.get(f"http://127.0.0.1:{pod.ports['metrics']}/readyz")).status != 200:
            assert time.monotonic() < deadline, engine.output.read_text()
            await asyncio.sleep(0.2)
        started = asyncio.Event()
        events = asyncio.create_task(stream(http, pod.url, started))
        await started.wait()
        for process in (engine, pod):
            process.popen.send_signal(signal.SIGTERM)
        assert (await events)[-1] == "[DONE]"
        await asyncio.sleep(1)
        async with http.post(f"{pod.url}/v1/completions", json={"prompt": "x", "max_tokens": 2}) as late:
            assert late.status == 200
    assert await ended(pod) == 0
    assert await ended(engine) == 0
