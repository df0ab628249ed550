"""The engine's HTTP server: OpenAI's API for one model, on the loopback interface."""

import asyncio
import copy
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest

from driftloop_server.engine import requests
from driftloop_server.engine.model import LoadedModel
from driftloop_server.engine.replies import Reply
from driftloop_server.engine.scheduler import QUEUE_FULL, QueueFull, Scheduler
from driftloop_server.engine.sequence import Generation, Output
from driftloop_server.engine.thoughts import Thoughts
from driftloop_server.engine.tokenising import LANES, Crowded, Tokenising, refuse_hopeless, refuse_oversized
from driftloop_server.openai_api import (
    CHAT,
    CLIENT,
    COMPLETIONS,
    EMBEDDINGS,
    MODELS,
    RESPONSES,
    ApiError,
    add_route,
    error_body,
    errors_as_json,
    no_such_model,
    parse_json,
)

Numbered = tuple[int, Output]  # an output, and the index of its choice
MAX_BODY = 4 << 20  # bytes
RETRY_AFTER = "1"  # seconds


class EngineServer:
    """The handlers of the HTTP API. The scheduler's thread generates."""

    def __init__(self, loaded: LoadedModel, scheduler: Scheduler, registry: Any, name: str) -> None:
        self._loaded = loaded
        self._scheduler = scheduler
        self._registry = registry
        self._name = name
        self._longest_token = loaded.longest_token
        self._created = int(time.time())
        self._tokenising = Tokenising()
        # One tokenizer per thread, as a fast tokenizer is not thread-safe:
        # https://github.com/huggingface/transformers/issues/47085
        self._by_lane = [replace(loaded, tokenizer=copy.deepcopy(loaded.tokenizer)) for _ in LANES]

    def app(self) -> web.Application:
        app = web.Application(middlewares=[errors_as_json], client_max_size=MAX_BODY)
        add_route(app, "GET", MODELS, self.models)
        add_route(app, "GET", MODELS + "/{model:.*[^/]}", self.model)
        add_route(app, "POST", COMPLETIONS, self.completions)
        add_route(app, "POST", CHAT, self.chat)
        add_route(app, "POST", RESPONSES, self.unsupported)
        add_route(app, "POST", EMBEDDINGS, self.unsupported)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), content_type="text/plain", charset="utf-8")

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._card()]})

    async def model(self, request: web.Request) -> web.Response:
        self._check_model(request.match_info["model"])
        return web.json_response(self._card())

    async def completions(self, request: web.Request) -> web.StreamResponse:
        params, generation = await self._parse(request, requests.CompletionRequest, requests.completion)
        return await self._answer(request, params, generation)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        params, generation = await self._parse(request, requests.ChatRequest, requests.chat)
        return await self._answer(request, params, generation)

    async def unsupported(self, request: web.Request) -> web.StreamResponse:
        raise ApiError(
            404,
            f"this engine has no {request.path}, only {CHAT} and {COMPLETIONS}: another engine.type may have it",
            code="unsupported_endpoint",
        )

    async def _parse(
        self, request: web.Request, kind: type[requests.Request], build: Callable[..., Generation]
    ) -> tuple[requests.Request, Generation]:
        """The request's body as an object, and as tokens."""
        body = await request.read()

        def work(lane: int, wanted: Callable[[], bool]) -> tuple[requests.Request, Generation]:
            loaded = replace(self._by_lane[lane], wanted=wanted)
            field = "messages" if kind is requests.ChatRequest else "prompt"
            refuse_oversized(body, field, loaded.max_model_len, self._longest_token)
            document = parse_json(body)
            refuse_hopeless(document, loaded.max_model_len, self._longest_token)
            params = requests.parse(kind, document)
            self._check_model(params.model)
            return params, build(params, loaded)

        try:
            return await self._tokenising.run(len(body), work)
        except Crowded:
            raise _busy(429, QUEUE_FULL, "queue_full") from None

    async def _answer(
        self, request: web.Request, params: requests.Common, generation: Generation
    ) -> web.StreamResponse:
        is_chat = isinstance(params, requests.ChatRequest)
        reply = Reply(
            id=f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            model=self._name,
            created=int(time.time()),
            prompt_tokens=len(generation.prompt),
            is_chat=is_chat,
            string=self._loaded.string,
            thoughts=[Thoughts(generation.thinks_already) for _ in range(params.n)] if generation.thinks else [],
        )
        async with self._outputs(generation.choices(params.n), request.headers.get(CLIENT)) as outputs:
            first = _checked(await anext(outputs))
            if params.stream:
                return await _stream(request, reply, first, outputs, params.n, params.stream_options.include_usage)
            by_choice = dict([first, *[_checked(numbered) async for numbered in outputs]])
        return web.json_response(reply.whole([by_choice[index] for index in range(params.n)]))

    @asynccontextmanager
    async def _outputs(
        self, generations: Sequence[Generation], client: str | None
    ) -> AsyncIterator[AsyncIterator[Numbered]]:
        """The outputs of generations, each with the generation's index, until all have ended.

        Leaving the context early (the client has left, or one has failed) frees their places in the batch.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Numbered] = asyncio.Queue()
        running = []

        def deliver(index: int, output: Output) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, (index, output))

        try:
            for index, generation in enumerate(generations):
                running.append(self._scheduler.submit(generation, partial(deliver, index), client))
            yield _until_last(queue, len(generations))
        except QueueFull:
            raise _busy(429, QUEUE_FULL, "queue_full") from None
        finally:
            for one in running:
                self._scheduler.cancel(one)

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self._name:
            raise no_such_model(model, self._name)

    def _card(self) -> dict[str, Any]:
        return {
            "id": self._name,
            "object": "model",
            "created": self._created,
            "owned_by": "driftloop",
            "max_model_len": self._loaded.max_model_len,
        }


async def _until_last(queue: asyncio.Queue[Numbered], count: int) -> AsyncIterator[Numbered]:
    while count:
        index, output = await queue.get()
        count -= output.last
        yield index, output


async def _stream(
    request: web.Request,
    reply: Reply,
    first: Numbered,
    outputs: AsyncIterator[Numbered],
    choices: int,
    include_usage: bool,
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for index in range(choices if reply.is_chat else 0):
        await response.write(_event(reply.opening(index)))
    tokens = 0
    async for index, output in _chained(first, outputs):
        if output.error:
            failure = _failure(output)
            await response.write(_event(error_body(failure.status, failure.message, code=failure.code)))
            break
        await response.write(_event(reply.chunk(output, index)))
        tokens += output.tokens if output.last else 0
    else:
        if include_usage:
            await response.write(_event(reply.closing(tokens)))
        await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _chained(first: Numbered, outputs: AsyncIterator[Numbered]) -> AsyncIterator[Numbered]:
    yield first
    async for numbered in outputs:
        yield numbered


def _checked(numbered: Numbered) -> Numbered:
    """Raises ApiError if the generation has failed."""
    if numbered[1].error:
        raise _failure(numbered[1])
    return numbered


def _failure(output: Output) -> ApiError:
    message = output.error or ""
    if output.status == 500:
        return ApiError(500, message, code="engine_failed")
    return _busy(output.status, message, "queue_full" if output.status == 429 else "out_of_memory")


def _busy(status: int, message: str, code: str) -> ApiError:
    return ApiError(status, message, code=code, headers={"Retry-After": RETRY_AFTER})


def _event(document: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(document, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
