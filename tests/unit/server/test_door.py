"""The door holds requests while there is no serving pod, and passes them on when there is one."""

import asyncio
import hashlib
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from driftloop.cli.gating.ports import free_ports
from driftloop.contract.activity import Activity
from driftloop.contract.names import ACTIVITY_PATH, Metric
from driftloop.contract.task import DoorTask
from driftloop_server.door.pods import MOST_HELD
from unit.server.processes import KEYS, TOKEN, Process, Start, answers, wait_for

ASK = {"prompt": "my card", "max_tokens": 4, "temperature": 0}
OpenDoor = Callable[..., Process]


@pytest.fixture
def door(launch: Start) -> OpenDoor:
    """Starts a door, ready when returned. Its pods are to listen on the port `pods`."""

    def start(environment: dict[str, str] | None = None, **changes: Any) -> Process:
        api, metrics, pods = free_ports(3)
        task = DoorTask(
            service="desk",
            pods_url=f"http://127.0.0.1:{pods}",
            hold_seconds=900,
            linger_seconds=1,
            drain_seconds=20,
            api_port=api,
            metrics_port=metrics,
        )
        found = launch("door", task.model_copy(update=changes), **(environment or {}))
        found.ports["pods"] = pods
        wait_for(lambda: answers(f"http://127.0.0.1:{metrics}/healthz") or found.popen.poll() is not None)
        assert found.popen.poll() is None, found.output.read_text()
        return found

    return start


def activity(process: Process) -> Activity:
    with urllib.request.urlopen(f"http://127.0.0.1:{process.ports['metrics']}{ACTIVITY_PATH}", timeout=5) as answer:
        return Activity.model_validate_json(answer.read())


async def holds(process: Process, count: int) -> None:
    """Wait until the door holds so many requests."""
    await asyncio.to_thread(wait_for, lambda: activity(process).held == count)


async def ask(http: aiohttp.ClientSession, url: str, **more: Any) -> tuple[int, Any]:
    async with http.post(f"{url}/v1/completions", json=ASK | more) as answer:
        return answer.status, await answer.json()


async def test_requests_wait_for_a_pod_and_all_are_answered_by_it(door: OpenDoor, pods: Start) -> None:
    found = door()
    async with aiohttp.ClientSession() as http:
        requests = [asyncio.create_task(ask(http, found.url)) for _ in range(20)]
        await holds(found, 20)
        assert found.metric(Metric.DOOR_HELD) == 20
        pod = await asyncio.to_thread(lambda: pods(api_port=found.ports["pods"]))
        for status, document in await asyncio.gather(*requests):
            assert (status, document["usage"]["completion_tokens"]) == (200, 4)
            assert document["id"].startswith("resp-")
        assert (activity(found).held, activity(found).running) == (0, 0)
        assert found.metric(Metric.DOOR_REQUESTS, code="200") == 20
        # Clients that keep their connections are served beside the pods.
        assert (await ask(http, found.url))[0] == 200
        assert activity(pod).running == 0


async def test_a_stream_passes_as_it_comes(door: OpenDoor, pods: Start) -> None:
    found = door()
    await asyncio.to_thread(lambda: pods(api_port=found.ports["pods"]))
    body = ASK | {"stream": True, "max_tokens": 200, "ignore_eos": True}
    moments = []
    async with aiohttp.ClientSession() as http, http.post(f"{found.url}/v1/completions", json=body) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        async for _ in answer.content:
            moments.append(time.monotonic())
    assert len({round(moment, 2) for moment in moments}) > 5


async def test_errors_of_a_pod_pass_unchanged(door: OpenDoor, pods: Start) -> None:
    found = door()
    await asyncio.to_thread(lambda: pods(api_port=found.ports["pods"]))
    async with aiohttp.ClientSession() as http:
        status, document = await ask(http, found.url, model="another")
    assert (status, document["error"]["code"]) == (404, "model_not_found")


async def test_a_request_is_not_held_for_ever(door: OpenDoor) -> None:
    found = door(hold_seconds=1)
    async with aiohttp.ClientSession() as http, http.post(f"{found.url}/v1/completions", json=ASK) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        error = (await answer.json())["error"]
        assert (error["code"], error["type"]) == ("service_asleep", "server_error")
        assert "1 s" in error["message"]
    assert activity(found).held == 0
    assert activity(found).idle_seconds is not None  # the operator learns of it, though it came in vain


async def test_a_client_that_leaves_frees_its_place(door: OpenDoor) -> None:
    found = door()
    async with aiohttp.ClientSession() as http:
        request = asyncio.create_task(ask(http, found.url))
        await holds(found, 1)
        request.cancel()
        await holds(found, 0)
    assert activity(found).running == 0
    await asyncio.to_thread(wait_for, lambda: found.metric(Metric.DOOR_REQUESTS, code="499") == 1)


async def test_no_more_requests_are_held_than_a_bound(door: OpenDoor) -> None:
    found = door()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        requests = [asyncio.create_task(ask(http, found.url)) for _ in range(MOST_HELD)]
        await holds(found, MOST_HELD)
        status, document = await ask(http, found.url)
        assert (status, document["error"]["code"]) == (503, "service_asleep")
        assert "too many" in document["error"]["message"]
        for request in requests:
            request.cancel()


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"[]", 400), (b"x" * ((4 << 20) + 1), 413)])
async def test_what_no_pod_could_read_wakes_none(door: OpenDoor, body: bytes, status: int) -> None:
    found = door()
    async with aiohttp.ClientSession() as http, http.post(f"{found.url}/v1/chat/completions", data=body) as answer:
        assert answer.status == status
        assert "error" in await answer.json()
    assert activity(found).idle_seconds is None


async def test_a_list_of_models_wakes_no_pod(door: OpenDoor) -> None:
    found = door()
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{found.url}/v1/models") as answer:
            assert [card["id"] for card in (await answer.json())["data"]] == ["desk"]
        async with http.get(f"{found.url}/v1/models/desk") as answer:
            assert (answer.status, (await answer.json())["id"]) == (200, "desk")
        async with http.get(f"{found.url}/v1/models/other") as answer:
            assert answer.status == 404
        async with http.get(f"{found.url}/metrics") as answer:
            assert answer.status == 404
    assert activity(found).idle_seconds is None


async def test_only_a_client_with_a_key_wakes_the_service(door: OpenDoor, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "team-a").write_text(json.dumps({"sha256": [hashlib.sha256(b"key-of-a").hexdigest()]}))
    found = door({"DRIFTLOOP_API_KEYS": str(keys)}, api_keys_secret="keys")
    async with aiohttp.ClientSession() as http:
        status, document = await ask(http, found.url)
        assert (status, document["error"]["code"]) == (401, "invalid_api_key")
        assert activity(found).idle_seconds is None
        headers = {"Authorization": "Bearer key-of-a"}
        request = asyncio.create_task(http.post(f"{found.url}/v1/completions", json=ASK, headers=headers).__aenter__())
        await holds(found, 1)
        request.cancel()


async def test_browsers_of_allowed_pages_are_answered(door: OpenDoor) -> None:
    found = door(allowed_origins=("https://chat.example.org",), hold_seconds=1)
    origin = {"Origin": "https://chat.example.org"}
    async with aiohttp.ClientSession(headers=origin) as http:
        preflight = {"Access-Control-Request-Method": "POST"}
        async with http.options(f"{found.url}/v1/completions", headers=preflight) as answer:
            assert answer.status == 204
        async with http.post(f"{found.url}/v1/completions", json=ASK) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "https://chat.example.org"
    assert activity(found).running == 0


async def test_a_pod_that_closes_its_connections_before_it_reads_loses_no_request(door: OpenDoor, pods: Start) -> None:
    """As a pod that stops may do: the request is held again, and the next pod answers it."""
    found = door()
    closed = asyncio.Event()

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            writer.close()
            stopping.close()
            closed.set()

    stopping = await asyncio.start_server(close, "127.0.0.1", found.ports["pods"])
    async with aiohttp.ClientSession() as http:
        request = asyncio.create_task(ask(http, found.url))
        await closed.wait()
        await stopping.wait_closed()
        await holds(found, 1)
        await asyncio.to_thread(lambda: pods(api_port=found.ports["pods"]))
        assert (await request)[0] == 200


async def test_a_door_that_stops_holds_its_requests_and_takes_new_ones_for_a_moment(
    door: OpenDoor, pods: Start
) -> None:
    found = door(linger_seconds=3, drain_seconds=100)
    async with aiohttp.ClientSession() as http:
        early = asyncio.create_task(ask(http, found.url))
        await holds(found, 1)
        found.terminate()
        late = asyncio.create_task(ask(http, found.url))
        await holds(found, 2)
        await asyncio.to_thread(lambda: pods(api_port=found.ports["pods"]))
        assert [status for status, _ in await asyncio.gather(early, late)] == [200, 200]
    assert await asyncio.to_thread(found.popen.wait, 60) == 0


async def test_a_rating_with_the_token_waits_too_and_one_without_it_wakes_none(door: OpenDoor, pods: Start) -> None:
    feedback, later = free_ports(2)
    found = door(KEYS, feedback_port=feedback, ratings_url=f"http://127.0.0.1:{later}")
    await asyncio.to_thread(lambda: pods(api_port=found.ports["pods"]))
    async with aiohttp.ClientSession() as http:
        _, answer = await ask(http, found.url)
        rating = {
            "response_id": answer["id"],
            "rating": "positive",
            "consent": False,
            "prompt": ASK["prompt"],
            "completion": "x",
        }
        before = activity(found).idle_seconds
        async with http.post(f"http://127.0.0.1:{feedback}/v1/feedback", json=rating) as refused:
            assert refused.status == 401
        assert before is not None
        assert (activity(found).idle_seconds or 0) >= before
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = f"http://127.0.0.1:{feedback}/v1/feedback"

        async def rate() -> tuple[int, Any]:
            async with http.post(url, json=rating, headers=headers) as taken:
                return taken.status, await taken.json()

        waiting = asyncio.create_task(rate())
        await holds(found, 1)
        await asyncio.to_thread(lambda: pods(feedback_port=later))
        assert await waiting == (200, {"status": "counted", "side": None})


def test_a_door_without_keys_that_it_needs_says_so_and_ends(tmp_path: Path, launch: Start) -> None:
    task = DoorTask(
        service="desk",
        pods_url="http://localhost:1",
        hold_seconds=1,
        linger_seconds=1,
        drain_seconds=2,
        api_keys_secret="keys",
    )
    process = launch("door", task, DRIFTLOOP_API_KEYS=str(tmp_path / "none"))
    assert process.popen.wait(60) == 78
    assert "spec.apiKeys" in process.output.with_suffix(".termination").read_text()
