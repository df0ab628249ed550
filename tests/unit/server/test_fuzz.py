"""Thousands of wrong requests beside steady users: each is answered or refused in one form, and no user is harmed."""

import asyncio
import contextlib
import json
from collections import Counter
from typing import Any

import aiohttp
import pytest

from unit.server.mutants import Mutant, mutant
from unit.server.processes import Process, Start

WORKERS, ADDRESSES = 12, 100  # hostile clients at once, and the addresses that they come from
NEIGHBOURS = 3
MAY_BE = {503, 504}  # of the 5xx, each with its reason
PATIENCE = 120.0  # seconds: ends a hang
GLANCE = 0.2  # seconds that are given to a request that is not complete


class Fault(Exception):
    """What the server did wrong."""


async def sent(port: int, found: Mutant) -> tuple[int, bytes]:
    """Send a mutant from one of the addresses. Returns status and body; 0 if it left before, or nothing was due."""
    address = f"127.0.2.{found.seed % ADDRESSES + 1}"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    try:
        with contextlib.suppress(ConnectionError):  # a refused body is not read to its end
            writer.write(found.data)
            await writer.drain()
        if found.leaves_after is not None:
            with contextlib.suppress(asyncio.IncompleteReadError, TimeoutError):
                await asyncio.wait_for(reader.readexactly(found.leaves_after), PATIENCE)
            return 0, b""
        try:
            answer = await asyncio.wait_for(reader.read(-1), PATIENCE if found.is_complete else GLANCE)
        except TimeoutError:
            if found.is_complete:
                raise Fault(f"no answer within {PATIENCE:.0f} s") from None
            return 0, b""
    except ConnectionResetError:
        if found.is_complete and len(found.data) < 1 << 16:
            raise Fault("the connection was reset") from None
        return 0, b""
    finally:
        writer.transport.abort()
    return parsed(answer, found)


def parsed(answer: bytes, found: Mutant) -> tuple[int, bytes]:
    head, _, body = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    if not head:
        if found.is_complete:
            raise Fault("the connection was closed without an answer")
        return 0, b""
    return int(head.split()[1]), body


def judge(found: Mutant, status: int, body: bytes) -> None:
    """Raises Fault for an error that is the server's, or in another form than OpenAI's."""
    if status >= 500 and status not in MAY_BE:
        raise Fault(f"status {status}: {body[:300]!r}")
    if status >= 400 and not found.data.startswith(b"HEAD"):
        error = json.loads(body)["error"]
        if not error["message"] or not error["type"]:
            raise Fault(f"status {status} without a reason: {body[:300]!r}")
    if b'{"error": {"message": "internal' in body or b'"code": "engine_failed"' in body:
        raise Fault(f"a stream that failed: {body[-300:]!r}")


class Neighbours:
    """Users who ask the same again and again, each from an address of their own."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        self.answered = 0
        self.faults: list[str] = []

    async def ask(self, number: int, until: asyncio.Event) -> None:
        question = {"role": "user", "content": f"my card {number} has not arrived yet"}
        body = {"messages": [question], "temperature": 0, "max_tokens": 12, "stream": bool(number % 2)}
        connector = aiohttp.TCPConnector(local_addr=(f"127.0.1.{number + 1}", 0))
        async with aiohttp.ClientSession(connector=connector) as session:
            expected = await self._answer(session, body)
            while not until.is_set():
                found = await self._answer(session, body)
                self.answered += 1
                if found != expected:
                    self.faults.append(f"{found} instead of {expected}")

    async def _answer(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> tuple[int, str]:
        async with session.post(self._url, json=body) as answer:
            text = await answer.text()
        if not body["stream"]:
            return answer.status, text.partition('"choices":')[2]
        pieces = [json.loads(line[6:])["choices"][0] for line in text.splitlines() if line.startswith("data: {")]
        return answer.status, "".join(piece["delta"].get("content", "") for piece in pieces)


async def fuzz(pod: Process, seeds: range) -> tuple[Counter[int], list[str], Neighbours]:
    """The answers by status, the faults with their seeds, and the neighbours."""
    statuses: Counter[int] = Counter()
    faults: list[str] = []
    neighbours, over, left = Neighbours(pod.url), asyncio.Event(), iter(seeds)

    async def work() -> None:
        for seed in left:
            found = mutant(seed)
            try:
                status, body = await sent(pod.ports["api"], found)
                judge(found, status, body)
                statuses[status] += 1
            except (Fault, ValueError, KeyError, TypeError) as error:
                faults.append(f"mutant({seed}): {error!r}: {found.data[:300]!r}")

    steady = [asyncio.create_task(neighbours.ask(number, over)) for number in range(NEIGHBOURS)]
    await asyncio.gather(*(work() for _ in range(WORKERS)))
    over.set()
    await asyncio.gather(*steady)
    return statuses, faults, neighbours


@pytest.mark.parametrize(
    "seeds",
    [range(300), pytest.param(range(10_000), marks=[pytest.mark.long("fuzz"), pytest.mark.timeout(1800)])],
    ids=len,
)
async def test_no_wrong_request_breaks_anything_or_harms_a_neighbour(pods: Start, seeds: range) -> None:
    proxy = pods()  # of its own: after so many clients and texts it no longer counts each request of other tests
    statuses, faults, neighbours = await fuzz(proxy, seeds)
    assert not faults, f"{len(faults)} faults: " + "\n".join(faults[:20])
    assert not neighbours.faults, neighbours.faults[:3]
    assert neighbours.answered > NEIGHBOURS
    assert proxy.popen.poll() is None
    assert statuses[200] > len(seeds) / 20  # the mutations are small enough to reach the engine
    assert statuses[400] > len(seeds) / 20


def test_a_seed_is_always_the_same_mutant() -> None:
    assert [mutant(seed) for seed in range(50)] == [mutant(seed) for seed in range(50)]
