"""A small deterministic model behind OpenAI's API, on a real socket: it knows the answers that it is given."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from driftloop.contract.names import ENGINE_UNAVAILABLE
from driftloop.contract.task import EvaluationArm

CONTEXT = 64  # words


class Answerer:
    """`faults` break one promise of the API each; `statuses` are given before answers begin."""

    def __init__(
        self,
        answers: Mapping[str, str],
        *,
        template: bool = True,
        faults: frozenset[str] = frozenset(),
        statuses: list[int] | None = None,
        ready_after: int = 0,
        restart: float = 2.5,
        thoughts: str = "",
        separates: bool = False,
    ) -> None:
        self.answers = answers
        self.template = template
        self.faults = faults
        self.statuses = statuses or []
        self.ready_after = ready_after
        self.restart = restart  # seconds until a fragile engine is back
        self.thoughts, self.separates = thoughts, separates  # what each answer begins with; as vLLM's reasoning parser
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.conversations: list[list[dict[str, Any]]] = []
        self.most_at_once = 0
        self.back_at = 0.0  # when its engine is back, on the clock time.monotonic
        self._running = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/readyz", self.ready)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.completions)
        return app

    async def ready(self, request: web.Request) -> web.Response:
        self.ready_after -= 1
        return web.Response(status=200 if self.ready_after < 0 else 503, text="loading")

    async def models(self, request: web.Request) -> web.Response:
        card = {"id": "desk", "object": "model", "owned_by": "answerer", "max_model_len": CONTEXT}
        return web.json_response({"object": "list", "data": [card]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        if not self.template:
            return _error(400, "this model has no chat template")
        return await self._reply(request, lambda body: _text(body["messages"][-1]["content"]))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._reply(request, lambda body: body["prompt"])

    async def _reply(self, request: web.Request, prompt_of: Any) -> web.StreamResponse:
        try:
            body = json.loads(await request.text())
        except ValueError:
            return _error(200 if "malformed" in self.faults else 400, "not JSON")
        if body.get("model") != "desk":
            return _error(404, "there is no such model")
        if "hang" in self.faults and body.get("tools"):
            await asyncio.sleep(3600)
        if (
            "fragile" in self.faults and "max_completion_tokens" in body
        ):  # its engine ends, and comes back after a while
            self.back_at = time.monotonic() + self.restart
        if time.monotonic() < self.back_at:
            return _error(503, "no engine listens", code=ENGINE_UNAVAILABLE)
        prompt = prompt_of(body)
        self.asked.append(prompt)
        self.bodies.append(body)
        self.conversations.append(body.get("messages", []))
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        await asyncio.sleep(1.5 if "slow" in self.faults else 0.001)
        self._running -= 1
        if prompt in self.answers and self.statuses:
            return _error(self.statuses.pop(0), "not now")
        if "crash" in self.faults and len(self.asked) > 20:  # in the middle of the items
            return _error(503, "no engine listens", code=ENGINE_UNAVAILABLE)
        if len(prompt.split()) > CONTEXT:
            return _error(500 if "overflow" in self.faults else 400, "the context is 64 words")
        if "refuse" in prompt:
            return _error(400, "this prompt is refused")
        text, reason = self.answers.get(prompt, "unknown request"), "stop"
        if "unsteady" in self.faults:
            text += str(len(self.asked))
        if "slip" in self.faults and self.asked.count(prompt) in (5, 23):  # in a look at temperature 0, and at a stream
            text += "?"
        if "unlucky" in self.faults and self.asked.count(prompt) in range(7, 16, 2):  # five streams
            text += "?"
        if "tie" in self.faults and self.asked.count(prompt) == 8:  # the answer from which a stop is taken
            text = "zzz"
        text = self.thoughts + text
        if "stop" not in self.faults:
            for stop in body.get("stop", []):
                text = text.partition(stop)[0]
        if len(text.split()) > body.get("max_tokens", CONTEXT):
            text, reason = " ".join(text.split()[: body["max_tokens"]]), "length"
        if body.get("stream"):
            return await self._stream(request, text, reason)
        count = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
        total = sum(count.values()) + ("usage" in self.faults)
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        message = {"role": "assistant", "content": text} | (_separated(text) if self.separates else {})
        choice |= {"message": message} if "messages" in body else {"text": text}
        scores = self._scores(body)
        if "messages" not in body:
            choice |= scores
        model = "another" if "models" in self.faults else body["model"]
        return web.json_response(
            {"model": model, "choices": [choice], "usage": count | {"total_tokens": total}} | scores
        )

    def _scores(self, body: dict[str, Any]) -> dict[str, Any]:
        """Log-probabilities of the words of the prompt: -0.1 for those of the known answer, -2 for others."""
        if "prompt_logprobs" not in body or "deaf" in self.faults:
            return {}
        question = body["messages"][0]["content"] if "messages" in body else body["prompt"].partition("?")[0]
        said = [message["content"] for message in body["messages"]] if "messages" in body else [body["prompt"]]
        words = [*" ".join(said).split(), *(["more"] if "chatty" in self.faults and len(said) > 1 else [])]
        known = self.answers.get(question, "").split()
        found = [{word: {"logprob": -0.1 if word in known else -2.0}} for word in words]
        return {"prompt_logprobs": [None, *found[1:]]}

    async def _stream(self, request: web.Request, text: str, reason: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        key = "delta" if "chat" in request.path else "text"
        if self.separates:
            parts = _separated(text)
            thought = {"choices": [{"delta": {"reasoning": parts["reasoning"]}}]}
            await response.write(f"data: {json.dumps(thought)}\n\n".encode())
            text = parts["content"] or ""
        for letter in text[1:] if "stream" in self.faults else text:
            piece: dict[str, Any] = {"delta": {"content": letter}} if key == "delta" else {"text": letter}
            await response.write(f"data: {json.dumps({'choices': [piece]})}\n\n".encode())
        last = {"choices": [{"delta": {}, "finish_reason": reason}]}
        await response.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
        return response


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@asynccontextmanager
async def serving(answerer: Answerer, version: str, digest: str) -> AsyncIterator[EvaluationArm]:
    """The arm's task for as long as it is served."""
    async with TestServer(answerer.app()) as server:
        url = str(server.make_url("")).rstrip("/")
        yield EvaluationArm(version=version, digest=digest, url=url, ready_url=f"{url}/readyz")


def _separated(text: str) -> dict[str, str | None]:
    """The fields of a message, as a parser of thoughts leaves them."""
    thoughts, found, answer = text.partition("</think>")
    return {"reasoning": thoughts.removeprefix("<think>"), "content": answer.lstrip() if found else None}


def _error(status: int, message: str, **fields: str) -> web.Response:
    error = {"message": message, "type": "invalid_request_error"} | fields
    return web.json_response({"error": error}, status=status)
