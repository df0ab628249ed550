"""The engine over HTTP: OpenAI's API for one model, on loopback."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest

from driftloop_server.engine import requests
from driftloop_server.engine.model import LoadedModel
from driftloop_server.engine.replies import Reply
from driftloop_server.engine.scheduler import QueueFull, Scheduler
from driftloop_server.engine.sequence import Generation, Output
from driftloop_server.openai_api import CHAT, COMPLETIONS, MODELS, ApiError, error_body, errors_as_json, read_json

MAX_BODY = 4 << 20  # bytes
RETRY_AFTER = "1"  # seconds


class EngineServer:
    """Handlers of the HTTP API; generation happens in the scheduler's thread."""

    def __init__(self, loaded: LoadedModel, scheduler: Scheduler, registry: Any, name: str) -> None:
        self._loaded = loaded
        self._scheduler = scheduler
        self._registry = registry
        self._name = name
        self._created = int(time.time())
        # One thread: tokenizers in Rust release the GIL, and two of them must not change one tokenizer's settings.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    def app(self) -> web.Application:
        app = web.Application(middlewares=[errors_as_json], client_max_size=MAX_BODY)
        app.router.add_get(MODELS, self.models)
        app.router.add_post(COMPLETIONS, self.completions)
        app.router.add_post(CHAT, self.chat)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), content_type="text/plain", charset="utf-8")

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._card()]})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        asked = requests.parse(requests.CompletionRequest, await read_json(request))
        self._check_model(asked.model)
        generation = await self._in_tokens(requests.completion, asked, self._loaded)
        return await self._answer(request, asked, generation)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = requests.parse(requests.ChatRequest, await read_json(request))
        self._check_model(asked.model)
        generation = await self._in_tokens(requests.chat, asked, self._loaded)
        return await self._answer(request, asked, generation)

    async def _in_tokens(self, build: Any, asked: Any, loaded: LoadedModel) -> Generation:
        loop = asyncio.get_running_loop()
        generation: Generation = await loop.run_in_executor(self._tokenizing, build, asked, loaded)
        return generation

    async def _answer(self, request: web.Request, asked: requests.Common, generation: Generation) -> web.StreamResponse:
        is_chat = isinstance(asked, requests.ChatRequest)
        reply = Reply(
            id=f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            model=self._name,
            created=int(time.time()),
            prompt_tokens=len(generation.prompt),
            is_chat=is_chat,
            string=lambda token: str(self._loaded.tokenizer.decode([token])),
        )
        async with self._outputs(generation) as outputs:
            if asked.stream:
                return await _stream(request, reply, outputs, asked.stream_options.include_usage)
            output = await anext(outputs)
        if output.error:
            raise ApiError(500, output.error, code="engine_failed")
        return web.json_response(reply.whole(output))

    @asynccontextmanager
    async def _outputs(self, generation: Generation) -> AsyncIterator[AsyncIterator[Output]]:
        """The outputs of a generation. Leaving early (a client that went away) frees its place in the batch."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Output] = asyncio.Queue()
        try:
            running = self._scheduler.submit(
                generation, lambda output: loop.call_soon_threadsafe(queue.put_nowait, output)
            )
        except QueueFull:
            raise ApiError(
                429, "too many requests are waiting: try again", code="queue_full", headers={"Retry-After": RETRY_AFTER}
            ) from None
        try:
            yield _until_last(queue)
        finally:
            self._scheduler.cancel(running)

    def _check_model(self, model: str | None) -> None:
        if model not in (None, self._name):
            raise ApiError(
                404, f"there is no model {model!r} here, only {self._name!r}", param="model", code="model_not_found"
            )

    def _card(self) -> dict[str, Any]:
        return {
            "id": self._name,
            "object": "model",
            "created": self._created,
            "owned_by": "driftloop",
            "max_model_len": self._loaded.max_model_len,
        }


async def _until_last(queue: asyncio.Queue[Output]) -> AsyncIterator[Output]:
    while True:
        output = await queue.get()
        yield output
        if output.last:
            return


async def _stream(
    request: web.Request, reply: Reply, outputs: AsyncIterator[Output], include_usage: bool
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    if reply.is_chat:
        await response.write(_event(reply.opening()))
    async for output in outputs:
        if output.error:
            await response.write(_event(error_body(500, output.error, code="engine_failed")))
            break
        await response.write(_event(reply.chunk(output)))
        if output.last and include_usage:
            await response.write(_event(reply.closing(output)))
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _event(document: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(document, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
