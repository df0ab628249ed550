"""A browser's page calls the API: from the origins that the service allows, and from no other."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from unit.server.processes import Process, Start

PAGE = "https://chat.example.org"
CHAT = {"model": "desk", "messages": [{"role": "user", "content": "my card"}], "max_tokens": 2}
ASKS = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-stainless-os"}
ALLOW = "Access-Control-Allow-Origin"


@pytest.fixture(scope="module")
def pod(pods: Start) -> Process:
    return pods(allowed_origins=(PAGE, "http://localhost:3000"))


@pytest.fixture(scope="module")
def closed(pods: Start) -> Process:
    return pods()


@pytest.fixture(scope="module")
def open_to_all(pods: Start) -> Process:
    return pods(allowed_origins=("*",))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_preflight_tells_methods_and_headers(pod: Process, session: aiohttp.ClientSession) -> None:
    async with session.options(f"{pod.url}/v1/chat/completions", headers=ASKS) as answer:
        assert answer.status == 204
        assert answer.headers[ALLOW] == PAGE
        assert answer.headers["Access-Control-Allow-Methods"] == "POST"
        assert answer.headers["Access-Control-Allow-Headers"] == "x-stainless-os"
        assert answer.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("change", [{}, {"stream": True}, {"max_tokens": -1}])
async def test_answers_streams_and_errors_are_marked(
    pod: Process, session: aiohttp.ClientSession, change: dict[str, object]
) -> None:
    url = f"{pod.url}/v1/chat/completions"
    async with session.post(url, json=CHAT | change, headers={"Origin": PAGE}) as answer:
        await answer.read()
        assert answer.status == (400 if "max_tokens" in change else 200)
        assert answer.headers[ALLOW] == PAGE
        assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After"


async def test_another_origin_is_refused_with_the_reason_and_not_marked(
    pod: Process, session: aiohttp.ClientSession
) -> None:
    other = ASKS | {"Origin": "https://evil.example"}
    async with session.options(f"{pod.url}/v1/chat/completions", headers=other) as answer:
        assert answer.status == 403
        assert "spec.allowedOrigins" in (await answer.json())["error"]["message"]
        assert ALLOW not in answer.headers
    async with session.post(f"{pod.url}/v1/chat/completions", json=CHAT, headers=other) as answer:
        assert answer.status == 200  # only a browser heeds it
        assert ALLOW not in answer.headers
        assert answer.headers["Vary"] == "Origin"


async def test_any_origin_may_where_the_service_says_so(open_to_all: Process, session: aiohttp.ClientSession) -> None:
    async with session.options(f"{open_to_all.url}/v1/models/", headers=ASKS) as answer:
        assert (answer.status, answer.headers[ALLOW]) == (204, "*")
        assert "Vary" not in answer.headers


async def test_without_origins_a_preflight_is_refused_and_nothing_marked(
    closed: Process, session: aiohttp.ClientSession
) -> None:
    async with session.options(f"{closed.url}/v1/chat/completions", headers=ASKS) as answer:
        assert answer.status == 405
        assert "error" in await answer.json()
    async with session.post(f"{closed.url}/v1/chat/completions", json=CHAT, headers={"Origin": PAGE}) as answer:
        assert answer.status == 200
        assert not {ALLOW, "Vary"} & set(answer.headers)


async def test_what_is_no_preflight_or_no_path_is_answered_as_ever(
    pod: Process, session: aiohttp.ClientSession
) -> None:
    async with session.options(f"{pod.url}/v1/chat/completions") as answer:
        assert answer.status == 405
    async with session.options(f"{pod.url}/v1/files", headers=ASKS) as answer:
        assert answer.status == 404


async def test_a_preflight_is_not_counted_as_a_request(pod: Process, session: aiohttp.ClientSession) -> None:
    def total() -> float:
        return sum(value for name, value in pod.metrics().items() if name.startswith("driftloop_requests_total"))

    before = total()
    async with session.options(f"{pod.url}/v1/chat/completions", headers=ASKS) as answer:
        assert answer.status == 204
    assert total() == before
