"""Asks a judge over HTTP, with a bound for the number of requests, and keeps its replies."""

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from driftloop.api.metric import Judge
from driftloop.api.suite import SuiteSpec
from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.evaluate.client import Reply, text_of
from driftloop_trainer.evaluate.judge.prompts import Messages, body

ATTEMPTS = 6
BACKOFF = 1.0  # seconds before the second attempt; doubled for each further one
LONGEST_PAUSE = 60.0  # seconds that a judge may ask for
MAX_BODY = 1 << 20  # bytes of a reply
_TRANSIENT = (0, 408, 409, 425, 429, 500, 502, 503, 504, 529)


@dataclass
class Replies:
    """Replies of judges by a hash of judge and request. Shared by all tries of an evaluation."""

    kept: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def key(judge: Judge, conversation: Messages) -> str:
        """Identity of a request to a judge."""
        content = json.dumps([judge.url, body(judge, conversation)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def dumps(self) -> str:
        """JSON lines, for `loads`."""
        return "".join(json.dumps({"key": k, "reply": v}, ensure_ascii=False) + "\n" for k, v in self.kept.items())

    @classmethod
    def loads(cls, text: str) -> "Replies":
        """The replies of a file that `dumps` wrote. A broken file has none: the judge is then asked again."""
        try:
            return cls({str(row["key"]): str(row["reply"]) for row in map(json.loads, text.splitlines())})
        except (ValueError, KeyError, TypeError):
            return cls()


class JudgeClient:
    """A client of one judge. `key` is its API key; empty if it needs none."""

    def __init__(
        self, judge: Judge, key: str, session: aiohttp.ClientSession, replies: Replies, concurrency: int, seconds: float
    ) -> None:
        self.requests = 0
        self._judge = judge
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session = session
        self._replies = replies
        self._slots = asyncio.Semaphore(concurrency)
        self._seconds = seconds

    async def ask(self, conversation: Messages) -> str:
        """The judge's reply, from an earlier try if there is one. Raises StageFailure."""
        key = self._replies.key(self._judge, conversation)
        if key not in self._replies.kept:
            self._replies.kept[key] = await self._request(body(self._judge, conversation))
        return self._replies.kept[key]

    async def _request(self, document: dict[str, Any]) -> str:
        reply, pause = Reply(0, ""), 0.0
        for attempt in range(ATTEMPTS):
            await asyncio.sleep(pause)
            async with self._slots:
                self._count()
                reply, wait = await self._once(document)
            if reply.status not in _TRANSIENT:
                break
            pause = max(BACKOFF * 2**attempt, min(wait, LONGEST_PAUSE))
        if reply.status == 200:
            return text_of(reply.document) or ""
        raise self._failure(reply)

    def _count(self) -> None:
        """Count a request. Raises StageFailure above the maximum."""
        self.requests += 1
        if self.requests > self._judge.max_requests:
            message = f"the judge needed more than metric.judge.maxRequests = {self._judge.max_requests}: raise it"
            raise StageFailure(StageReason.JUDGE_FAILED, message, EXIT_RETRY)

    async def _once(self, document: dict[str, Any]) -> tuple[Reply, float]:
        """A reply, and the seconds that the judge asks to wait."""
        try:
            async with self._session.post(
                self._judge.url.rstrip("/") + "/chat/completions",
                json=document,
                headers=self._headers,
                allow_redirects=False,  # the key is for this host only
                timeout=aiohttp.ClientTimeout(total=self._seconds),
            ) as response:
                content = b""
                while len(content) < MAX_BODY and (more := await response.content.read(MAX_BODY - len(content))):
                    content += more
                return Reply(response.status, content.decode(errors="replace")), _seconds(response.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Reply(0, f"{type(error).__name__}: {error}"), 0.0

    def _failure(self, reply: Reply) -> StageFailure:
        answer = f"{reply.status or 'no answer'}: {reply.error or reply.body[:300]}"
        message = f"the judge {self._judge.model} at {self._judge.url} answered {answer}"
        if reply.status in _TRANSIENT:
            return StageFailure(StageReason.JUDGE_FAILED, message, EXIT_RETRY)
        return StageFailure(StageReason.JUDGE_REFUSED, message)


def _seconds(headers: Any) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0


def refuse_cost(suite: SuiteSpec, items: int) -> None:
    """Raise StageFailure if the judge may not be asked about all items."""
    judge = suite.metric.judge
    if judge and 2 * items > judge.max_requests:
        raise StageFailure(
            StageReason.BAD_METRIC,
            f"suite {suite.name}: {items} items need {2 * items} requests to the judge, and metric.judge.maxRequests "
            f"is {judge.max_requests}: raise it, or lower maxItems",
        )
