"""Sends copies of answered requests to a candidate that has no users yet, and counts the pairs of answers.

A copy is sent after the user's answer is complete, so it can't delay or fail it. Copies are dropped, and counted, when
too many are running. They are held only in memory, until the candidate has answered, and are never logged.

The candidate is found by a Service that exists only while its shadow is compared. Its proxy tells the share of requests
to copy. The requests carry a token that only the service's own pods know, so that the candidate's proxy lets them in
without an API key and does not count them as users' requests.
"""

import asyncio
import hashlib
import logging
import random
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, assert_never

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from driftloop.contract.names import SHADOW_HEADER, SHADOW_PATH
from driftloop_server.openai_api import RESPONSES, ApiError, parse_json
from driftloop_server.proxy.answers import EventRewriter, rewrite
from driftloop_server.proxy.formats import Choices, Format, Responses
from driftloop_server.proxy.metrics import MIN_TOKENS, ProxyMetrics
from driftloop_server.proxy.upstream import read_bounded

log = logging.getLogger(__name__)

MAX_BODY = 64 << 10  # bytes of a request that is copied
MAX_ANSWER = 4 << 20  # bytes of the candidate's answer
MAX_RUNNING = 8  # copies at a time: at most half a megabyte of requests
ASK_SECONDS = 10.0  # between two questions whether there is a candidate
ASK_TIMEOUT = 5.0
LOST_SECONDS = 300.0  # a candidate that does not answer is still one for so long: its pod may move to another node
CONNECT_SECONDS = 5.0  # a pod whose node is lost refuses no connection
LEAST_TIMEOUT, TIMES_SLOWER = 30.0, 10.0  # a copy may take this many seconds, and this many times the user's time more


class Settings(BaseModel):
    """What the candidate's proxy says about the copies that it wants."""

    revision: str = Field(max_length=63)
    percent: float = Field(ge=0, le=100)
    latency_ratio: float = Field(ge=1, le=100)


@dataclass(frozen=True)
class Answered:
    """An answer, of stable or of the candidate."""

    failed: bool
    seconds: float = 0.0
    tokens: int = 0  # 0: unknown
    digest: bytes = b""  # of the text; empty: unknown


LENGTH_RATIO = 1.5  # a pair differs in length if one answer has that many times the tokens of the other


def outcomes(stable: Answered, candidate: Answered, ratio: float, *, greedy: bool) -> dict[str, str]:
    """What a pair counts as, by measure: candidate, stable or neither; equal or different for greedy answers.

    >>> outcomes(Answered(False, 1.0, 20, b"a"), Answered(False, 2.0, 20, b"a"), 1.5, greedy=True)
    {'failed': 'neither', 'slow': 'candidate', 'length': 'neither', 'answer': 'equal'}
    >>> outcomes(Answered(False, 1.0, 20), Answered(True), 1.5, greedy=True)
    {'failed': 'candidate'}
    """
    failed = _worse(candidate.failed > stable.failed, stable.failed > candidate.failed)
    counted = {"failed": failed}
    if candidate.failed or stable.failed:
        return counted
    if min(candidate.tokens, stable.tokens) >= MIN_TOKENS:
        mine, its = stable.seconds / stable.tokens, candidate.seconds / candidate.tokens
        counted["slow"] = _worse(its > ratio * mine, mine > ratio * its)
    if min(candidate.tokens, stable.tokens) > 0:
        long, short = LENGTH_RATIO * stable.tokens, LENGTH_RATIO * candidate.tokens
        counted["length"] = _worse(candidate.tokens > long, stable.tokens > short)
    if greedy and stable.digest and candidate.digest:
        counted["answer"] = "equal" if stable.digest == candidate.digest else "different"
    return counted


def _worse(candidate: bool, stable: bool) -> str:
    return "candidate" if candidate else "stable" if stable else "neither"


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


class Mirror:
    """Copies requests while there is a candidate in the shadow. `url` None: never."""

    def __init__(self, url: str | None, token: str, timeout: float, metrics: ProxyMetrics) -> None:
        self._url, self._timeout, self._metrics = url, timeout, metrics
        self._headers = {SHADOW_HEADER: token, "Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._target: Settings | None = None
        self._heard = 0.0  # monotonic time of its last word
        self._running: set[asyncio.Task[None]] = set()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_RUNNING + 1),
            timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._session.close()

    @property
    def revision(self) -> str | None:
        """The candidate's revision."""
        return self._target.revision if self._target else None

    async def watch(self, own_revision: str) -> None:
        """Look for a candidate until cancelled."""
        while self._url:
            candidate = await self._ask()
            if candidate is not None and candidate.revision != own_revision and candidate != self._target:
                self._metrics.shadow_of(candidate.revision)
                log.info("%g %% of the requests are copied to revision %s", candidate.percent, candidate.revision)
            if candidate is not None:
                self._target = candidate if candidate.revision != own_revision else None
                self._heard = time.monotonic()
            elif self._target and time.monotonic() - self._heard > LOST_SECONDS:
                self._target = None
            await asyncio.sleep(ASK_SECONDS)

    def chosen(self, size: int) -> bool:
        """Whether a request that arrives now is to be copied. A long one is dropped."""
        target = self._target
        if target is None or random.random() * 100 >= target.percent:  # noqa: S311 - a sample, not a secret
            return False
        if size > MAX_BODY:
            self._metrics.shadow_dropped(target.revision, "long")
            return False
        return True

    def copy(self, path: str, body: bytes, stable: Answered) -> None:
        """Send a copy in the background, unless too many are running. It never waits."""
        if (target := self._target) is None:
            return
        if len(self._running) >= MAX_RUNNING:
            self._metrics.shadow_dropped(target.revision, "busy")
            return
        task = asyncio.create_task(self._pair(target, path, body, stable))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _pair(self, target: Settings, path: str, body: bytes, stable: Answered) -> None:
        try:
            document = parse_json(body)
        except ApiError:
            return  # stable failed on a body that nobody can read
        greedy = document.get("temperature") == 0 and document.get("n") in (None, 1)
        candidate = await self._answer(path, body, min(self._timeout, LEAST_TIMEOUT + TIMES_SLOWER * stable.seconds))
        match candidate:
            case Answered():
                for measure, outcome in outcomes(stable, candidate, target.latency_ratio, greedy=greedy).items():
                    self._metrics.shadow_pair(target.revision, measure, outcome)
            case "refused" | "unreachable":
                self._metrics.shadow_dropped(target.revision, candidate)
            case never:
                assert_never(never)

    async def _answer(self, path: str, body: bytes, seconds: float) -> Answered | Literal["refused", "unreachable"]:
        """The candidate's answer. Refused: it has too much to do. Unreachable: its pod is gone.

        A pod that is gone says nothing about the version: when an engine fails, the proxy in its pod still answers.
        """
        began = time.monotonic()
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.post(f"{self._url}{path}", data=body, headers=self._headers) as answer,
            ):
                if answer.status == 429:
                    return "refused"
                if answer.status != 200:
                    return Answered(failed=True)
                content = await read_bounded(answer, MAX_ANSWER)
                kind = Responses() if path == RESPONSES else Choices()
                failed, tokens, text = _read(content, kind, streamed=answer.content_type == "text/event-stream")
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            return "unreachable"
        except (aiohttp.ClientError, TimeoutError, ApiError, ValueError):
            return Answered(failed=True)
        return Answered(failed, time.monotonic() - began, tokens, digest(text))

    async def _ask(self) -> Settings | None:
        """What the candidate wants; None if there is none, or if it does not answer."""
        try:
            async with (
                asyncio.timeout(ASK_TIMEOUT),
                self._session.get(f"{self._url}{SHADOW_PATH}", headers=self._headers) as answer,
            ):
                if answer.status != 200:
                    return None
                document: Any = parse_json(await read_bounded(answer, MAX_BODY))
                return Settings.model_validate(document)
        except aiohttp.ClientConnectorDNSError:
            self._target = None  # the Service is gone, so the shadow is over
            return None
        except (aiohttp.ClientError, TimeoutError, ApiError, ValidationError):
            return None


def _read(content: bytes, kind: Format, *, streamed: bool) -> tuple[bool, int, str]:
    """Whether the answer failed, its tokens and its text. Raises ValueError."""
    if not streamed:
        whole = rewrite(content, "", kind)
        return False, whole.tokens, whole.text
    events = EventRewriter("", kind)
    events.feed(content)
    events.flush()
    return events.failed, events.tokens, events.text
