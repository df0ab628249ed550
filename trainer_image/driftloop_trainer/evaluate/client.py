"""Asks one served model over HTTP, in the same way as its users."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from driftloop.contract.names import ENGINE_UNAVAILABLE, EXIT_RETRY
from driftloop.contract.reasoning import Tags, split
from driftloop.contract.reasons import StageReason
from driftloop.contract.task import EvaluationArm
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.items import Question

ATTEMPTS = 4
BACKOFF = 0.5  # seconds before the second attempt; doubled for each further one
SLOWEST = 5.0  # tokens per second: for longer answers the timeout grows by this rate
READY_POLL = 1.0  # seconds
MAX_BODY = 8 << 20  # bytes of an answer; the rest is not read

Route = Literal["chat", "completions"]


@dataclass(frozen=True)
class Reply:
    """An HTTP response. `status` 0: there was none, and `body` says why."""

    status: int
    body: str

    @property
    def document(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is not one."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def error(self) -> str:
        """The message of an error in OpenAI's form; empty without one."""
        error = self.document.get("error")
        return str(error.get("message") or "") if isinstance(error, dict) else ""

    @property
    def is_gone(self) -> bool:
        """Whether there was no response, or the proxy has no engine: that says nothing about the model's answers."""
        error = self.document.get("error")
        return self.status == 0 or (isinstance(error, dict) and error.get("code") == ENGINE_UNAVAILABLE)


@dataclass(frozen=True)
class Generation:
    """How answers are generated, and the system message of questions that have none."""

    max_tokens: int
    system_prompt: str = ""
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None  # None at temperature 0
    reasoning_tags: Tags | None = None  # of thoughts that are not a part of the answer

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a request that have an effect."""
        fields: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        fields |= {"stop": list(self.stop)} if self.stop else {}
        return fields | {k: v for k, v in (("top_p", self.top_p), ("seed", self.seed)) if v is not None}


@dataclass(frozen=True)
class Likelihood:
    """Mean log-probability per token of a completion behind its question, and the number of these tokens."""

    logprob: float
    tokens: int

    @property
    def score(self) -> float:
        """The mean probability (geometric) of a token, in [0, 1]: one over the perplexity."""
        return math.exp(min(self.logprob, 0.0))


@dataclass(frozen=True)
class Answer:
    """A model's answer to an item: its text, or why there is none."""

    text: str | None
    error: str = ""
    status: int = 200
    cut: bool = False  # the token limit ended it
    likelihood: Likelihood | None = None  # of the item's completion, if that was asked and not an answer

    @property
    def is_missing(self) -> bool:
        """Whether the model gave neither a text nor a likelihood."""
        return self.text is None and self.likelihood is None


class Arm:
    """A client of one served model, for at most `concurrency` requests at a time.

    `request_timeout_seconds` includes the time in the engine's queue; it grows with `longest_answer`, in tokens.
    """

    def __init__(
        self,
        arm: EvaluationArm,
        session: aiohttp.ClientSession,
        concurrency: int,
        longest_answer: int = 0,
        request_timeout_seconds: float = 120.0,
    ) -> None:
        self.version = arm.version
        self.digest = arm.digest
        self.model = ""  # its name, from /v1/models
        self.max_model_len: int | None = None  # tokens; None if the engine doesn't report it
        self.engine = ""
        self.route: Route = "chat"
        self._url = arm.url.rstrip("/")
        self._ready_url = arm.ready_url
        self._session = session
        self._slots = asyncio.Semaphore(concurrency)
        self._patience = max(request_timeout_seconds, longest_answer / SLOWEST)

    async def wait_ready(self, seconds: float) -> None:
        """Wait until the pod reports that it is ready. After `seconds` raises StageFailure with a retry."""
        reply = Reply(0, "no answer yet")
        try:
            async with asyncio.timeout(seconds):
                while True:
                    reply = await self._once("GET", self._ready_url, seconds=10.0)
                    if reply.status == 200:
                        return
                    await asyncio.sleep(READY_POLL)
        except TimeoutError:
            message = (
                f"{self.version} was not ready within {seconds:g} s: {reply.status or 'no answer'}: {reply.body[:300]}"
            )
            raise StageFailure(StageReason.NOT_READY, message, EXIT_RETRY) from None

    async def get_to_know(self) -> None:
        """Find out the model's name, its context, and whether it has a chat template. Raises StageFailure."""
        reply = await self.get("/v1/models")
        models = reply.document.get("data")
        if reply.status != 200 or not isinstance(models, list) or not models or not isinstance(models[0], dict):
            raise StageFailure(
                StageReason.BAD_MODEL_LIST,
                f"{self.version}: /v1/models returned status {reply.status}: {reply.body[:300]}",
                EXIT_RETRY,
            )
        self.model = str(models[0].get("id") or "")
        self.engine = str(models[0].get("owned_by") or "")[:128]
        limit = models[0].get("max_model_len")
        self.max_model_len = limit if isinstance(limit, int) and limit > 0 else None
        self.route = "chat"
        reply = await self.generate("Hello", max_tokens=1)
        if reply.status == 400:
            self.route = "completions"
            reply = await self.generate("Hello", max_tokens=1)
        if reply.status != 200:
            raise StageFailure(
                StageReason.NO_ANSWER,
                f"{self.version}: the first request returned status {reply.status}: {reply.body[:300]}",
                EXIT_RETRY,
            )

    async def ask(self, question: str | Question, generation: Generation) -> Answer:
        """The answer to a question. Raises StageFailure like generate."""
        question = Question(question) if isinstance(question, str) else question
        reply = await self.generate(question.with_system(generation.system_prompt), **generation.fields)
        if reply.status != 200:
            return Answer(None, f"{reply.status}: {reply.error or reply.body[:300]}", reply.status)
        said = said_of(reply.document)
        thoughts, text = said.thoughts, said.text
        if text is not None and generation.reasoning_tags:
            more, text = split(text, generation.reasoning_tags)
            thoughts += more
        cut = said.whole is not None and reply.document["choices"][0].get("finish_reason") == "length"
        if text is None and thoughts:
            return Answer(None, "the answer ends within its thoughts: raise maxTokens", reply.status, cut)
        return Answer(text, "" if text is not None else "the answer has no text", reply.status, cut)

    async def said(self, prompt: str, max_tokens: int) -> str | None:
        """All that the model says at temperature 0, its thoughts too; None without a text. Raises StageFailure."""
        reply = await self.generate(prompt, max_tokens=max_tokens)
        return said_of(reply.document).whole if reply.status == 200 else None

    async def generate(self, question: str | Question, **fields: Any) -> Reply:
        """Send a request on the model's route, at temperature 0 by default. Transient failures are retried.

        Raises StageFailure with a retry if the model can't be reached, as do get and post.
        """
        return await self.post(self.path, self.request(question, **fields))

    async def stream(self, prompt: str, **fields: Any) -> tuple[str, str | None, bool]:
        """Text with thoughts, finish reason, and whether [DONE] was received, of a streamed answer.

        Raises aiohttp.ClientError or ValueError, and StageFailure with a retry if the model can't be reached.
        """
        text, reason, done = "", None, False
        body = json.dumps(self.request(prompt, stream=True, **fields))
        async with self._slots, self._request("POST", self._url + self.path, body, self._patience) as response:
            if response.status != 200:
                reply = self._answered(Reply(response.status, await response.text()))
                raise ValueError(f"{reply.status}: {reply.body[:300]}")
            async for line in response.content:
                data = line.decode().strip().removeprefix("data:").strip()
                if not data or line.startswith(b":"):
                    continue
                if data == "[DONE]":
                    done = True
                    break
                choice = (json.loads(data).get("choices") or [{}])[0]
                delta = choice.get("delta") or {}
                text += str(_thoughts(delta) or "") + str(delta.get("content") or choice.get("text") or "")
                reason = choice.get("finish_reason") or reason
        return text, reason, done

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.route == "chat" else "/v1/completions"

    def request(self, question: str | Question, **fields: Any) -> dict[str, Any]:
        """The body of a request. Raises StageFailure for a conversation if the model has no chat template."""
        question = Question(question) if isinstance(question, str) else question
        if self.route == "completions" and question.messages:
            raise StageFailure(
                StageReason.NO_CHAT_TEMPLATE,
                f"{self.version} has no chat template, but an item is a conversation or the suite has a systemPrompt: "
                "add a chat template to the model, or use only items with a single prompt",
            )
        body = question.chat if self.route == "chat" else {"prompt": question.prompt}
        return {"model": self.model, "temperature": 0, **body, **fields}

    async def get(self, path: str) -> Reply:
        """Send a GET request. Transient failures are retried."""
        return await self._with_retries("GET", path, None)

    async def post(self, path: str, body: dict[str, Any] | str) -> Reply:
        """POST a JSON document or any text. Transient failures are retried."""
        return await self._with_retries("POST", path, body if isinstance(body, str) else json.dumps(body))

    async def try_post(self, path: str, body: dict[str, Any]) -> Reply:
        """POST a JSON document that the model may be unable to answer, or may even end at: that is a reply, too."""
        return await self._retried("POST", path, json.dumps(body), patient=False)

    async def wait_back(self, seconds: float) -> None:
        """Wait until the model answers a short request, as after a restart of its engine.

        After `seconds` raises StageFailure with a retry.
        """
        body, reply = json.dumps(self.request("Hello", max_tokens=1)), Reply(0, "no answer yet")
        try:
            async with asyncio.timeout(seconds):
                while reply.status != 200:
                    reply = await self._once("POST", self._url + self.path, body, seconds=self._patience)
                    await asyncio.sleep(READY_POLL if reply.status != 200 else 0)
        except TimeoutError:
            raise self._unreachable(reply) from None

    async def _with_retries(self, method: str, path: str, body: str | None) -> Reply:
        return self._answered(await self._retried(method, path, body))

    async def _retried(self, method: str, path: str, body: str | None, *, patient: bool = True) -> Reply:
        """The last reply. If not `patient`, no reply is one: a second wait would be as long."""
        reply = Reply(0, "")
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(BACKOFF * 2 ** (attempt - 1))
            async with self._slots:
                reply = await self._once(method, self._url + path, body, seconds=self._patience)
            if reply.status not in (0, 429, 500, 502, 503, 504) or (reply.status == 0 and not patient):
                break
        return reply

    def _answered(self, reply: Reply) -> Reply:
        if reply.is_gone:
            raise self._unreachable(reply)
        return reply

    def _unreachable(self, reply: Reply) -> StageFailure:
        message = f"{self.version} stopped answering: {reply.error or reply.body[:300]}"
        return StageFailure(StageReason.UNREACHABLE, message, EXIT_RETRY)

    async def _once(self, method: str, url: str, body: str | None = None, *, seconds: float) -> Reply:
        try:
            async with self._request(method, url, body, seconds) as response:
                content = await response.content.read(MAX_BODY)
                while len(content) < MAX_BODY and (more := await response.content.read(MAX_BODY - len(content))):
                    content += more
                return Reply(response.status, content.decode(errors="replace"))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Reply(0, f"{type(error).__name__}: {error}")

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, body: str | None, seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._session.request(
            method,
            url,
            data=body.encode() if body is not None else None,
            headers={"Content-Type": "application/json"} if body is not None else {},
            timeout=aiohttp.ClientTimeout(total=seconds),
        ) as response:
            yield response


@dataclass(frozen=True)
class Said:
    """What a model said in answer to a request."""

    thoughts: str = ""  # those that the engine has separated from the answer
    text: str | None = None  # None: the engine returned none

    @property
    def whole(self) -> str | None:
        """Thoughts and answer; None if there is neither."""
        return self.thoughts + (self.text or "") if self.thoughts or self.text is not None else None


def said_of(document: dict[str, Any]) -> Said:
    """What an answer of either route says that is not a stream."""
    text = text_of(document)
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    return Said(_thoughts(choice.get("message")) or "", text)


def _thoughts(message: Any) -> str | None:
    """The thoughts in a message or a delta. vLLM renamed the field reasoning_content to reasoning."""
    fields = message if isinstance(message, dict) else {}
    thoughts = fields.get("reasoning") or fields.get("reasoning_content")
    return thoughts if isinstance(thoughts, str) else None


def text_of(document: dict[str, Any]) -> str | None:
    """The text of an answer of either route that is not a stream; None if it has none."""
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    message = choices[0].get("message")
    text = message.get("content") if isinstance(message, dict) else choices[0].get("text")
    return text if isinstance(text, str) else None
