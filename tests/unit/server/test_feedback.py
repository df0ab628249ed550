"""Feedback over HTTP: two pods of one service, before one engine."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from driftloop.contract.prompts import Prompt
from driftloop.contract.task import ServeTask
from driftloop.contract.text import side
from driftloop_server.proxy.identity import Signer
from unit.server.processes import SIGNING_KEY, TOKEN, Artefact, Process, Start

Session = aiohttp.ClientSession
UID = "5f0c9a0e-1111-4222-8333-444455556666"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(scope="session")
def other_pod(pods: Start) -> Process:
    """A second pod of the service, of another revision."""
    return pods(revision="r2", version="desk-99999999")


async def ask(http: aiohttp.ClientSession, pod: Process, content: str = "my card", **more: Any) -> tuple[str, str]:
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 6, "temperature": 0} | more
    answer = await (await http.post(f"{pod.url}/v1/chat/completions", json=body)).json()
    return answer["id"], answer["choices"][0]["message"]["content"]


async def rate(
    http: aiohttp.ClientSession, pod: Process, token: str = TOKEN, **body: Any
) -> tuple[int, dict[str, Any]]:
    url = f"http://127.0.0.1:{pod.ports['feedback']}/v1/feedback"
    body = {"consent": True, "user": "ada"} | body
    async with http.post(url, json=body, headers={"Authorization": f"Bearer {token}"}) as response:
        return response.status, await response.json()


def rows(volumes: Path, version: str = "desk-0a1b2c3d") -> list[dict[str, Any]]:
    files = sorted((volumes / "feedback" / "desk" / version).glob("*/*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


async def test_a_correction_becomes_a_row_with_its_prompt(http: Session, proxy: Process, artefact: Artefact) -> None:
    before = proxy.metric("driftloop_feedback_total", rating="correction")
    identity, answer = await ask(http, proxy, "where is my  card?")
    expected = side("desk", "where is my  card?", 10)
    eligible = proxy.metric("driftloop_feedback_eligible_total", side=expected)
    status, body = await rate(http, proxy, response_id=identity, rating="negative", correction="card_arrival")
    assert (status, body) == (200, {"status": "stored", "side": expected})
    (row,) = (row for row in rows(artefact.volumes) if row["id"] == identity)
    assert row["prompt"] == "where is my  card?"
    assert row["completion"] == answer
    assert (row["rating"], row["correction"]) == ("correction", "card_arrival")
    assert (row["version"], row["side"]) == ("desk-0a1b2c3d", expected)
    assert row["user"] not in ("", "ada")
    assert row["created"] < row["expires"]
    assert proxy.metric("driftloop_feedback_total", rating="correction") == before + 1
    assert proxy.metric("driftloop_feedback_eligible_total", side=expected) == eligible + 1


async def test_an_answer_whose_client_named_its_arm_counts_for_no_comparison_of_revisions(
    http: Session, pods: Start
) -> None:
    """Clients that choose are no sample of all clients. Their ratings still count for the version."""
    pod = pods(revision="r3")
    body = {"messages": [{"role": "user", "content": "my card"}], "max_tokens": 6, "temperature": 0}
    headers = {"Driftloop-Version": "candidate"}
    answer = await (await http.post(f"{pod.url}/v1/chat/completions", json=body, headers=headers)).json()
    assert (await rate(http, pod, response_id=answer["id"], rating="negative"))[0] == 200
    route = "/v1/chat/completions"
    assert pod.metric("driftloop_requests_total", route=route, code="200", revision="r3") == 0
    assert pod.metric("driftloop_requests_total", route="chosen", code="200", revision="r3") == 1
    assert pod.metric("driftloop_request_duration_seconds_count", route=route) == 0
    endings = [value for name, value in pod.metrics().items() if name.startswith("driftloop_answers_total{")]
    assert sum(endings) == 0
    assert pod.metric("driftloop_rated_answers_total", rating="negative", revision="r3") == 0
    rated = pod.metric("driftloop_feedback_total", rating="negative", revision="chosen", model_version="desk-0a1b2c3d")
    assert rated == 1


async def test_the_whole_answer_of_a_stream_is_remembered(http: Session, proxy: Process, artefact: Artefact) -> None:
    body = {"prompt": "refund", "max_tokens": 9, "temperature": 0}
    whole = await (await http.post(f"{proxy.url}/v1/completions", json=body)).json()
    async with http.post(f"{proxy.url}/v1/completions", json=body | {"stream": True}) as response:
        first = await response.content.readline()
        await response.read()
    identity = json.loads(first.removeprefix(b"data: "))["id"]
    assert (await rate(http, proxy, response_id=identity, rating="positive"))[0] == 200
    (row,) = (row for row in rows(artefact.volumes) if row["id"] == identity)
    assert (row["prompt"], row["completion"]) == ("refund", whole["choices"][0]["text"])


async def test_a_good_rating_of_a_cut_off_answer_is_stored_as_such_and_does_not_count_for_training(
    http: Session, proxy: Process, artefact: Artefact
) -> None:
    identity, _ = await ask(http, proxy, "a cut off answer", max_tokens=2, ignore_eos=True)
    before = [proxy.metric("driftloop_feedback_eligible_total", side=each) for each in ("train", "heldOut")]
    assert (await rate(http, proxy, response_id=identity, rating="positive"))[0] == 200
    (row,) = (row for row in rows(artefact.volumes) if row["id"] == identity)
    assert row["partial"] is True
    assert before == [proxy.metric("driftloop_feedback_eligible_total", side=each) for each in ("train", "heldOut")]


async def test_another_pod_takes_feedback_that_brings_its_prompt(
    http: Session, proxy: Process, other_pod: Process, artefact: Artefact
) -> None:
    identity, answer = await ask(http, proxy, "top up")
    status, body = await rate(http, other_pod, response_id=identity, rating="positive")
    assert status == 409
    assert "send prompt and completion" in body["error"]["message"]
    status, body = await rate(http, other_pod, response_id=identity, rating="positive", prompt="another one")
    assert (status, body["error"]["code"]) == (409, "prompt_mismatch")
    status, _ = await rate(http, other_pod, response_id=identity, rating="positive", prompt="top up", completion=answer)
    assert status == 200
    # It is about the version that answered, not the one that took it: rows and counters say so.
    (row,) = (row for row in rows(artefact.volumes) if row["id"] == identity)
    assert (row["prompt"], row["completion"], row["version"]) == ("top up", answer, "desk-0a1b2c3d")
    assert other_pod.metric("driftloop_feedback_total", rating="positive", revision="r1") == 1
    assert other_pod.metric("driftloop_feedback_total", rating="positive", revision="r2") == 0


async def test_a_conversation_is_rated_by_its_messages(
    http: Session, proxy: Process, other_pod: Process, artefact: Artefact
) -> None:
    messages = [
        {"role": "assistant", "content": "Which card?"},
        {"role": "user", "content": [{"type": "text", "text": "blue"}]},
    ]
    identity, _ = await ask(http, proxy, messages=messages)
    assert (await rate(http, other_pod, response_id=identity, rating="negative", prompt="blue"))[0] == 409
    assert (await rate(http, other_pod, response_id=identity, rating="negative", prompt=messages))[0] == 200
    (row,) = (row for row in rows(artefact.volumes) if row["id"] == identity)
    assert row["prompt"] == "blue"
    assert [message["content"] for message in row["messages"]] == ["Which card?", "blue"]


async def test_the_side_is_that_of_the_whole_conversation(http: Session, proxy: Process, artefact: Artefact) -> None:
    words = (f"blue {n}" for n in range(1000))
    word = next(w for w in words if side("desk", w, 10) != side("desk", f"Which card?\n{w}", 10))
    messages = [{"role": "assistant", "content": "Which card?"}, {"role": "user", "content": word}]
    identity, _ = await ask(http, proxy, messages=messages)
    _, body = await rate(http, proxy, response_id=identity, rating="negative", correction="card_blue", prompt=messages)
    (row,) = (row for row in rows(artefact.volumes) if row["id"] == identity)
    assert body["side"] == row["side"] == side("desk", f"Which card?\n{word}", 10)


async def test_a_repeated_request_adds_nothing(http: Session, proxy: Process, artefact: Artefact) -> None:
    identity, _ = await ask(http, proxy)
    before = proxy.metric("driftloop_feedback_total", rating="negative")
    first = await rate(http, proxy, response_id=identity, rating="negative")
    assert await rate(http, proxy, response_id=identity, rating="negative") == first
    assert sum(row["id"] == identity for row in rows(artefact.volumes)) == 1
    assert proxy.metric("driftloop_feedback_total", rating="negative") == before + 1


async def test_a_retry_that_overtakes_its_first_request_adds_nothing(
    http: Session, proxy: Process, artefact: Artefact
) -> None:
    identity, _ = await ask(http, proxy, "twice at once")
    before = proxy.metric("driftloop_feedback_total", rating="correction")
    requests = [rate(http, proxy, response_id=identity, rating="correction", correction="c") for _ in range(8)]
    answers = await asyncio.gather(*requests)
    assert [status for status, _ in answers] == [200] * 8
    assert len([row for row in rows(artefact.volumes) if row["id"] == identity]) == 1
    assert proxy.metric("driftloop_feedback_total", rating="correction") == before + 1


async def test_without_consent_it_is_counted_and_not_stored(http: Session, proxy: Process, artefact: Artefact) -> None:
    identity, _ = await ask(http, proxy)
    before = proxy.metric("driftloop_feedback_total", rating="negative")
    status, body = await rate(http, proxy, response_id=identity, rating="negative", consent=False)
    assert (status, body) == (200, {"status": "counted", "side": None})
    assert all(row["id"] != identity for row in rows(artefact.volumes))
    assert proxy.metric("driftloop_feedback_total", rating="negative") == before + 1


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", "ümlaut"])
async def test_without_the_token_nothing_is_taken(http: Session, proxy: Process, token: str) -> None:
    identity, _ = await ask(http, proxy)
    url = f"http://127.0.0.1:{proxy.ports['feedback']}/v1/feedback"
    body = {"response_id": identity, "rating": "negative", "consent": True}
    for headers in ({"Authorization": f"Bearer {token}"}, {"Authorization": f"Basic {TOKEN}"}, {}):
        response = await http.post(url, json=body, headers=headers)
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_forged_and_expired_ids_are_refused(http: Session, proxy: Process) -> None:
    identity, _ = await ask(http, proxy)
    head, _, signature = identity.rpartition(".")
    other = Signer(b"another-service's-key", UID).sign("v", "r", b"0" * 16, time.time())
    for forged in (head + "." + signature[::-1], head[:-2] + "AA." + signature, other, "resp-", "x", "resp-ä.b"):
        status, body = await rate(http, proxy, response_id=forged, rating="negative")
        assert (status, body["error"]["code"]) == (403, "forged")
    old = Signer(SIGNING_KEY.encode(), UID).sign("desk-0a1b2c3d", "r1", Prompt("my card").hash, time.time() - 8 * 86400)
    status, body = await rate(http, proxy, response_id=old, rating="negative", prompt="my card")
    assert (status, body["error"]["code"]) == (410, "expired")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"rating": "good"}, "rating"),
        ({"rating": "correction"}, "correction"),
        ({"rating": "correction", "correction": " \n"}, "correction"),
        ({"rating": "negative", "correction": "\u00a0"}, "correction"),
        ({"rating": "positive", "correction": "x"}, "rating"),
        ({"rating": "negative", "consent": "yes"}, "consent"),
        ({"rating": "negative", "user": "u" * 300}, "user"),
        ({"rating": "negative", "reason": "x"}, "reason"),
        ({}, "rating"),
    ],
)
async def test_a_malformed_field_is_named(http: Session, proxy: Process, body: dict[str, Any], param: str) -> None:
    status, answer = await rate(http, proxy, response_id="resp-x", **body)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_a_blank_answer_is_not_counted_as_one_to_train_on(http: Session, proxy: Process) -> None:
    signed = Signer(SIGNING_KEY.encode(), UID).sign("desk-0a1b2c3d", "r1", Prompt("my card").hash, time.time())

    def eligible() -> float:
        return sum(value for name, value in proxy.metrics().items() if name.startswith("driftloop_feedback_eligible"))

    before = eligible()
    sent = {"prompt": "my card", "rating": "positive"}
    assert (await rate(http, proxy, response_id=signed, completion=" \n", **sent))[0] == 200
    assert eligible() == before


async def test_one_user_can_rate_so_often_and_no_more(http: Session, pods: Start, artefact: Artefact) -> None:
    pod = pods(feedback_max_per_user_per_hour=3)
    ids = [(await ask(http, pod))[0] for _ in range(5)]
    found = [(await rate(http, pod, response_id=identity, rating="negative"))[0] for identity in ids]
    # The hour may turn in between.
    assert found in ([200, 200, 200, 429, 429], [200, 200, 200, 429, 200]) or found.count(200) > 3
    assert (await rate(http, pod, response_id=ids[0], rating="negative", user="bob", correction="c"))[0] == 200


async def test_what_cant_be_stored_is_not_acknowledged(http: Session, pods: Start, artefact: Artefact) -> None:
    (artefact.volumes / "full").write_text("a file where a folder should be")
    pod = pods(feedback_uri="pvc://full/desk")
    identity, _ = await ask(http, pod)
    status, body = await rate(http, pod, response_id=identity, rating="negative")
    assert (status, body["error"]["code"]) == (503, "storage")
    assert pod.metric("driftloop_feedback_total", rating="negative") == 0
    (artefact.volumes / "full").unlink()
    assert (await rate(http, pod, response_id=identity, rating="negative"))[0] == 200


async def test_acknowledged_rows_survive_a_killed_pod(http: Session, pods: Start, artefact: Artefact) -> None:
    pod = pods()
    ids = [(await ask(http, pod))[0] for _ in range(12)]
    taken = await asyncio.gather(*(rate(http, pod, response_id=i, rating="negative", correction="c") for i in ids))
    pod.stop()
    assert [status for status, _ in taken] == [200] * 12
    assert {row["id"] for row in rows(artefact.volumes)} >= set(ids)


def test_feedback_without_keys_does_not_start(serve_task: ServeTask, launch: Start) -> None:
    process = launch("proxy", serve_task.model_copy(update={"feedback_uri": "pvc://feedback/desk"}))
    assert process.popen.wait(30) == 78
    assert "DRIFTLOOP_SIGNING_KEY" in process.output.with_suffix(".termination").read_text()
