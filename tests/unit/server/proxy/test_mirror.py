"""Copies of requests to a candidate in the shadow: what counts, what is dropped, and that nobody waits."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from driftloop.contract.names import SHADOW_DROPS, SHADOW_HEADER, SHADOW_MEASURES, SHADOW_PATH
from driftloop.contract.task import ServeTask
from driftloop_server.openai_api import CHAT
from driftloop_server.proxy import mirror as module
from driftloop_server.proxy.metrics import LABELS, ProxyMetrics
from driftloop_server.proxy.mirror import MAX_BODY, MAX_RUNNING, Answered, Mirror, digest, outcomes

TOKEN = "the-token"
BODY = json.dumps({"messages": [{"role": "user", "content": "a secret"}], "temperature": 0}).encode()
STABLE = Answered(False, 1.0, 20, digest("yes"))


class Candidate:
    """A candidate's proxy."""

    def __init__(self) -> None:
        self.status, self.percent, self.revision = 200, 100.0, "r2"
        self.seen: list[bytes] = []
        self.begins = False  # its answer, before it goes on
        self.connections: list[asyncio.Transport] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def shadow(self, request: web.Request) -> web.Response:
        assert request.headers[SHADOW_HEADER] == TOKEN
        return web.json_response({"revision": self.revision, "percent": self.percent, "latency_ratio": 1.5})

    async def chat(self, request: web.Request) -> web.Response:
        assert request.headers[SHADOW_HEADER] == TOKEN
        self.seen.append(await request.read())
        if self.begins:
            begun = web.StreamResponse()
            begun.content_length = 100
            await begun.prepare(request)
            await begun.write(b"{")
        assert request.transport is not None
        self.connections.append(request.transport)
        await self.go_on.wait()
        choice = {"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}
        body = {"id": "x", "choices": [choice], "usage": {"completion_tokens": 20}}
        return web.json_response(body, status=self.status)


def metrics() -> ProxyMetrics:
    task = {"namespace": "support", "service": "desk", "service_uid": "u", "family": "desk", "version": "v1"}
    artefact = {"artefact_uri": "pvc://models/v1", "artefact_digest": "sha256:" + "0" * 64}
    return ProxyMetrics(ServeTask.model_validate(task | artefact | {"revision": "r1"}))


class Stable:
    """The proxy of stable, with its mirror."""

    def __init__(self, mirror: Mirror, counters: ProxyMetrics) -> None:
        self.mirror, self._counters = mirror, counters

    def pairs(self, measure: str, outcome: str) -> float:
        return self._value("driftloop_shadow_pairs_total", measure=measure, outcome=outcome)

    def dropped(self, reason: str) -> float:
        return self._value("driftloop_shadow_dropped_total", reason=reason)

    def _value(self, name: str, **labels: str) -> float:
        constant = dict(zip(LABELS, self._counters.constant, strict=True)) | {"candidate": "r2"}
        value = self._counters.registry.get_sample_value(name, constant | labels)
        assert value is not None
        return value


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - counters have no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def shadowed(candidate: Candidate, revision: str = "r1") -> AsyncIterator[Stable]:
    app = web.Application()
    app.router.add_get(SHADOW_PATH, candidate.shadow)
    app.router.add_post(CHAT, candidate.chat)
    counters = metrics()
    async with TestServer(app) as server, Mirror(str(server.make_url("")).rstrip("/"), TOKEN, 5, counters) as mirror:
        watching = asyncio.create_task(mirror.watch(revision))
        await until(lambda: mirror.revision is not None or revision != "r1")
        yield Stable(mirror, counters)
        watching.cancel()


async def test_a_pair_is_counted_by_every_measure_and_series_start_at_0() -> None:
    candidate = Candidate()
    async with shadowed(candidate) as stable:
        assert all(stable.pairs(m, outcome) == 0 for m, all_ in SHADOW_MEASURES.items() for outcome in all_)
        assert all(stable.dropped(reason) == 0 for reason in SHADOW_DROPS)
        assert stable.mirror.chosen(len(BODY))
        stable.mirror.copy(CHAT, BODY, STABLE)
        await until(lambda: stable.pairs("answer", "equal") == 1)
        assert stable.pairs("failed", "neither") == 1
        assert stable.pairs("slow", "stable") == 1  # the candidate took no second
        assert stable.pairs("length", "neither") == 1
        assert candidate.seen == [BODY]


@pytest.mark.parametrize(("status", "outcome"), [(500, "candidate"), (400, "candidate")])
async def test_a_candidate_that_fails_or_refuses_what_stable_answers_is_worse(status: int, outcome: str) -> None:
    candidate = Candidate()
    candidate.status = status
    async with shadowed(candidate) as stable:
        stable.mirror.copy(CHAT, BODY, STABLE)
        await until(lambda: stable.pairs("failed", outcome) == 1)
        stable.mirror.copy(CHAT, BODY, Answered(failed=True))
        await until(lambda: stable.pairs("failed", "neither") == 1)


async def test_a_candidate_that_is_full_makes_no_pair() -> None:
    candidate = Candidate()
    candidate.status = 429
    async with shadowed(candidate) as stable:
        stable.mirror.copy(CHAT, BODY, STABLE)
        await until(lambda: stable.dropped("refused") == 1)


async def test_one_that_does_not_answer_in_time_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_TIMEOUT", 0.1)
    candidate = Candidate()
    async with shadowed(candidate) as stable:
        candidate.go_on.clear()
        stable.mirror.copy(CHAT, BODY, Answered(False, 0.0, 20))
        await until(lambda: stable.pairs("failed", "candidate") == 1)
        candidate.go_on.set()


async def test_copies_above_the_bounds_are_dropped_at_once_and_counted() -> None:
    candidate = Candidate()
    async with shadowed(candidate) as stable:
        candidate.go_on.clear()
        for _ in range(MAX_RUNNING + 3):
            stable.mirror.copy(CHAT, BODY, STABLE)
        assert stable.dropped("busy") == 3
        assert not stable.mirror.chosen(MAX_BODY + 1)
        assert stable.dropped("long") == 1
        candidate.go_on.set()
        await until(lambda: stable.pairs("failed", "neither") == MAX_RUNNING)


async def test_only_the_share_is_copied_and_none_to_oneself() -> None:
    candidate = Candidate()
    candidate.percent = 20
    async with shadowed(candidate) as stable:
        assert 100 < sum(stable.mirror.chosen(10) for _ in range(1000)) < 300
    async with shadowed(candidate, revision="r2") as itself:
        await asyncio.sleep(0.2)
        assert not any(itself.mirror.chosen(10) for _ in range(200))


async def test_without_a_candidate_nothing_is_copied() -> None:
    async with Mirror(None, TOKEN, 5, metrics()) as mirror:
        await mirror.watch("r1")
        assert not mirror.chosen(10)
        mirror.copy(CHAT, BODY, STABLE)
    async with Mirror("http://127.0.0.1:9", TOKEN, 5, metrics()) as mirror:
        watching = asyncio.create_task(mirror.watch("r1"))
        await asyncio.sleep(0.1)
        assert not mirror.chosen(10)
        watching.cancel()


async def test_a_candidate_whose_pod_moves_to_another_node_is_no_worse_and_goes_on_to_be_asked() -> None:
    candidate = Candidate()
    async with shadowed(candidate) as stable:
        url, stable.mirror._url = stable.mirror._url, "http://127.0.0.1:9"
        for _ in range(3):
            stable.mirror.copy(CHAT, BODY, STABLE)
        await until(lambda: stable.dropped("unreachable") == 3)
        assert all(stable.pairs("failed", outcome) == 0 for outcome in SHADOW_MEASURES["failed"])
        assert stable.mirror.chosen(10)
        stable.mirror._url = url
        stable.mirror.copy(CHAT, BODY, STABLE)
        await until(lambda: stable.pairs("failed", "neither") == 1)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_pod_that_is_lost_while_it_answers_makes_no_pair(begun: bool) -> None:
    candidate = Candidate()
    candidate.begins = begun
    async with shadowed(candidate) as stable:
        candidate.go_on.clear()
        stable.mirror.copy(CHAT, BODY, STABLE)
        await until(lambda: candidate.connections)
        for transport in candidate.connections:
            transport.abort()
        await until(lambda: stable.dropped("unreachable") == 1)
        assert stable.pairs("failed", "candidate") == 0
        candidate.go_on.set()


@pytest.mark.parametrize(
    ("tokens", "seconds", "slow", "length"),
    [
        (20, 1.0, "neither", "neither"),
        (20, 1.6, "candidate", "neither"),
        (20, 0.5, "stable", "neither"),
        (31, 1.0, "stable", "candidate"),
        (16, 1.0, "neither", "neither"),
        (13, 1.0, None, "stable"),  # too short for a time per token
        (0, 1.0, None, None),  # the engine does not count
    ],
)
def test_outcomes(tokens: int, seconds: float, slow: str | None, length: str | None) -> None:
    found = outcomes(STABLE, Answered(False, seconds, tokens, digest("no")), 1.5, greedy=True)
    assert (found.get("slow"), found.get("length"), found["answer"]) == (slow, length, "different")
    assert set(found) <= set(SHADOW_MEASURES)
    assert "answer" not in outcomes(STABLE, Answered(False, seconds, tokens, digest("no")), 1.5, greedy=False)
