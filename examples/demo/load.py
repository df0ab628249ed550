"""The load client. It runs in a pod, reads commands as JSON lines and prints its counts as JSON lines.

It uses only the standard library and aiohttp, because the pod has the operator's image. Connections are kept alive, and
one request in ten is a stream. A share of the answers gets a correction, and a few of the corrections are wrong.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from typing import Any

import aiohttp

STREAM_SHARE = 0.1
CONNECT_PAUSES = (0.5, 1.0)  # seconds; like openai's client, retry twice if the request could not be sent


class Load:
    """Sends requests at the rate of the current phase, until standard input is closed."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.url: str = config["url"]
        self.feedback_url: str = config["feedbackUrl"]
        self.token: str = config["token"]
        self.model: str = config["model"]
        self.feedback_share: float = config["feedbackShare"]
        self.wrong_share: float = config["wrongShare"]
        self.pools: dict[str, list[list[str]]] = config["pools"]
        self.labels: list[str] = sorted({label for pool in self.pools.values() for _, label in pool})
        self.rng = random.Random(config["seed"])
        self.cursor: Counter[str] = Counter()
        self.phase: dict[str, Any] = {"phase": "idle", "rate": 0.0, "mix": {}}
        self.counts: dict[str, Counter[str]] = {}
        self.errors: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self, stdin: asyncio.StreamReader) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            commands = asyncio.create_task(self._read_commands(stdin))
            reports = asyncio.create_task(self._report())
            due = time.monotonic()
            while not commands.done():
                rate = float(self.phase["rate"])
                if rate <= 0:
                    await asyncio.sleep(0.1)
                    due = time.monotonic()
                    continue
                due = max(due + 1 / rate, time.monotonic() - 1)  # after a stall, catch up at most one second
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(self._request(session, self.phase["phase"]))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            if self.tasks:
                await asyncio.wait(self.tasks, timeout=90)
            reports.cancel()
            self._print()

    async def _read_commands(self, stdin: asyncio.StreamReader) -> None:
        while line := await stdin.readline():
            command = json.loads(line)
            if command.get("stop"):  # it must not become the phase, because it has no rate
                return
            self.phase = command

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._print()

    def _print(self) -> None:
        by_phase = {name: dict(counts) for name, counts in self.counts.items()}
        print(json.dumps({"byPhase": by_phase, "errors": dict(self.errors), "open": len(self.tasks)}), flush=True)

    def _next_row(self) -> list[str]:
        mix = self.phase["mix"]
        name = self.rng.choices(list(mix), weights=list(mix.values()))[0]
        pool = self.pools[name]
        self.cursor[name] += 1
        return pool[(self.cursor[name] - 1) % len(pool)]

    async def _request(self, session: aiohttp.ClientSession, phase: str) -> None:
        text, label = self._next_row()
        counts = self.counts.setdefault(phase, Counter())
        counts["sent"] += 1
        try:
            response_id, answer = await self._answer(session, counts, text)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, IndexError) as error:
            counts["failed"] += 1
            self.errors[f"{type(error).__name__}: {error}"[:160]] += 1
            return
        right = answer.strip() == label
        counts["correct"] += right
        if self.rng.random() < self.feedback_share:
            await self._correct(session, counts, response_id, text, answer, label)

    async def _answer(self, session: aiohttp.ClientSession, counts: Counter[str], text: str) -> tuple[str, str]:
        """Id and text of an answer. A request that was not sent, because the connection was refused, is retried."""
        for pause in CONNECT_PAUSES:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                return await self._chat(session, counts, text)
            await asyncio.sleep(pause)
        return await self._chat(session, counts, text)

    async def _chat(self, session: aiohttp.ClientSession, counts: Counter[str], text: str) -> tuple[str, str]:
        stream = self.rng.random() < STREAM_SHARE
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 48,
            "stream": stream,
        }
        try:
            async with session.post(f"{self.url}/v1/chat/completions", json=body) as response:
                if response.status != 200:
                    raise ValueError(f"HTTP {response.status}: {(await response.text())[:120]}")
                if not stream:
                    document = await response.json()
                    return document["id"], document["choices"][0]["message"]["content"] or ""
                return await _read_stream(response)
        except aiohttp.ClientConnectorError:
            counts["refused"] += 1
            raise

    async def _correct(
        self, session: aiohttp.ClientSession, counts: Counter[str], response_id: str, text: str, answer: str, label: str
    ) -> None:
        if self.rng.random() < self.wrong_share:
            label = self.rng.choice([other for other in self.labels if other != label])
            counts["wrongLabels"] += 1
        body: dict[str, Any] = {
            "response_id": response_id,
            "prompt": text,
            "completion": answer,
            "user": f"user-{self.rng.randrange(200)}",
            "consent": True,
        }
        good = answer.strip() == label
        body |= {"rating": "positive"} if good else {"rating": "correction", "correction": label}
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            async with session.post(f"{self.feedback_url}/v1/feedback", json=body, headers=headers) as response:
                counts["feedback" if response.status < 300 else "feedbackFailed"] += 1
                if response.status >= 300:
                    self.errors[f"feedback HTTP {response.status}: {(await response.text())[:120]}"] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            counts["feedbackFailed"] += 1
            self.errors[f"feedback {type(error).__name__}: {error}"[:160]] += 1


async def _read_stream(response: aiohttp.ClientResponse) -> tuple[str, str]:
    """Id and text of a stream of server-sent events. Raises ValueError if it ends without [DONE]."""
    response_id = ""
    parts: list[str] = []
    async for raw in response.content:
        line = raw.decode().strip()
        if line == "data: [DONE]":
            return response_id, "".join(parts)
        if not line.startswith("data: "):
            continue
        document = json.loads(line.removeprefix("data: "))
        response_id = document.get("id", response_id)
        if document.get("choices"):
            parts.append(document["choices"][0]["delta"].get("content") or "")
    raise ValueError("the stream ended without [DONE]")


async def main() -> None:
    """Read the configuration from the first line of standard input, and a phase from each later line."""
    stdin = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    await Load(json.loads(await stdin.readline())).run(stdin)


if __name__ == "__main__":
    asyncio.run(main())
