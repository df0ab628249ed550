"""What a whole pod tells about its requests: from the API and the ratings to the operator's question."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from driftloop.contract.names import TOPICS_PATH
from driftloop.contract.topics import TopicsReport
from unit.server.processes import TOKEN, Process, Start


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(http: aiohttp.ClientSession, pod: Process, text: str, user: str) -> str:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1, "user": user}
    answer: dict[str, Any] = await (await http.post(f"{pod.url}/v1/chat/completions", json=body)).json()
    return str(answer["id"])


async def rate(http: aiohttp.ClientSession, pod: Process, identity: str, user: str, *, consent: bool) -> None:
    url = f"http://127.0.0.1:{pod.ports['feedback']}/v1/feedback"
    body = {"response_id": identity, "rating": "negative", "consent": consent, "user": user}
    async with http.post(url, json=body, headers={"Authorization": f"Bearer {TOKEN}"}) as response:
        assert response.status == 200


async def test_a_pod_names_what_is_new_in_words_whose_users_agreed(http: aiohttp.ClientSession, pods: Start) -> None:
    pod = pods(drift_topics=True)
    places = [f"{a}{b}" for a in "abcde" for b in "vwxyz"]
    for number, place in enumerate(places):
        await ask(http, pod, f"where is my card {place}", f"user {number}")
    change = datetime.now(UTC)
    zebras = [await ask(http, pod, f"my zebra eats {place}", f"user {n}") for n, place in enumerate(places)]
    yaks = [await ask(http, pod, f"a yak sleeps {place}", f"user {n}") for n, place in enumerate(places)]
    for number in range(3):
        await rate(http, pod, zebras[number], f"user {number}", consent=True)
        await rate(http, pod, yaks[number], f"user {number}", consent=False)
    url = f"http://127.0.0.1:{pod.ports['metrics']}{TOPICS_PATH}"
    async with http.get(url, params={"since": change.isoformat(), "together": "1"}) as answer:
        assert answer.status == 200
        report = TopicsReport.model_validate(await answer.json())
    assert (report.before, report.since, report.grown) == (25, 50, 2)
    (topic,) = report.topics
    assert set(topic.terms) <= {"zebra", "eats", "my zebra", "zebra eats"}
    assert set(topic.rows) == set(zebras[:3])


async def test_a_pod_of_a_service_that_does_not_allow_it_tells_nothing(
    http: aiohttp.ClientSession, proxy: Process
) -> None:
    url = f"http://127.0.0.1:{proxy.ports['metrics']}{TOPICS_PATH}"
    async with http.get(url, params={"since": "2026-03-01T12:00:00+00:00", "together": "1"}) as answer:
        assert answer.status == 404
