"""The API's handlers: they pass requests on to the engine, and the engine's answers back to the client."""

import asyncio
import json
import re
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import aiohttp
from aiohttp import web

from driftloop.contract.names import CHOSEN_ROUTE, GENERATING, SHADOW_PATH, VERSION_HEADER
from driftloop.contract.prompts import Prompt, prompt_of, prompt_of_response
from driftloop.contract.shares import user_of
from driftloop_server.openai_api import (
    CHAT,
    CLIENT,
    COMPLETIONS,
    EMBEDDINGS,
    MODELS,
    RESPONSES,
    ApiError,
    Handler,
    add_route,
    error_body,
    error_response,
    errors_as_json,
    is_unicode,
    no_such_model,
    parse_json,
)
from driftloop_server.proxy.activity import Busy
from driftloop_server.proxy.answers import AnswerTooLong, EventRewriter, rewrite
from driftloop_server.proxy.bodies import SMALL, Bodies
from driftloop_server.proxy.clients import CLIENT_NAME, COPIED, KeyCheck, client_of
from driftloop_server.proxy.cors import Cors
from driftloop_server.proxy.drift import DriftCounters
from driftloop_server.proxy.formats import Choices, Format, Responses
from driftloop_server.proxy.identity import Signer
from driftloop_server.proxy.memory import Answer, Memory
from driftloop_server.proxy.metrics import CLIENT_GONE, Outcome, ProxyMetrics
from driftloop_server.proxy.mirror import Answered, Mirror, Settings, digest
from driftloop_server.proxy.names import Names
from driftloop_server.proxy.pace import REFUSALS, Pace
from driftloop_server.proxy.readiness import Readiness
from driftloop_server.proxy.relay import ClientGone, pass_blocks, to_client
from driftloop_server.proxy.upstream import MAX_ANSWER, Upstream, broken_off, read_bounded
from driftloop_server.proxy.weights import Weights

# Headers for tracing. No other header of the client is passed on to the engine.
_TRACING = ("traceparent", "tracestate", "X-Request-Id")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,510}[\x21-\x7e])?")
# Fields of the Responses API with which an engine keeps answers. The next request may go to another pod.
_STATEFUL = ("background", "conversation", "previous_response_id")
_QUOTED = 500  # bytes of an engine's error that a client gets to see
_CODE = web.RequestKey("code", int)  # the status of a stream that failed after its 200 was sent
_BEGAN = web.RequestKey("began", float)  # monotonic time of its arrival
_COPY = web.RequestKey("copy", bytes)  # its body, if a copy goes to a candidate in the shadow
_TEXT = web.RequestKey("text", str)  # the answer to it
_OUTCOME = web.RequestKey("outcome", Outcome)  # of its answer


class Api:
    """Serves what answers, embeds and lists models. The engine's other paths are not available from outside the pod."""

    def __init__(
        self,
        version: str,
        revision: str,
        names: Names,
        upstream: Upstream,
        signer: Signer,
        memory: Memory,
        metrics: ProxyMetrics,
        drift: DriftCounters,
        readiness: Readiness,
        cors: Cors,
        key_check: KeyCheck,
        mirror: Mirror,
        wanted: Settings,
        busy: Busy,
    ) -> None:
        self._version, self._revision = version, revision
        self._names = names
        self._upstream = upstream
        self._signer = signer
        self._memory = memory
        self._metrics = metrics
        self._drift = drift
        self._readiness = readiness
        self._cors, self._key_check = cors, key_check
        self._mirror, self._wanted = mirror, wanted
        self._bodies, self._refusals = Bodies(), Pace(REFUSALS)
        self._weights = Weights()
        self._busy = busy

    def app(self) -> web.Application:
        outer = [self._cors.preflight, self._slow_down, self._key_check.check]
        app = web.Application(middlewares=[*outer, self._measure, errors_as_json])
        app.on_response_prepare.append(self._cors.mark)
        app.router.add_get(SHADOW_PATH, self.shadow)
        add_route(app, "GET", MODELS, self.models)
        add_route(app, "GET", MODELS + "/{model:.*[^/]}", self.model)
        for path in (COMPLETIONS, CHAT, RESPONSES):
            add_route(app, "POST", path, self._busy.counted(self.generate))
        add_route(app, "POST", EMBEDDINGS, self._busy.counted(self.embed))
        return app

    async def shadow(self, request: web.Request) -> web.Response:
        """Which copies this pod wants, for the other pods of its service."""
        if not request.get(COPIED):
            raise web.HTTPNotFound
        return web.json_response(self._wanted.model_dump())

    async def models(self, request: web.Request) -> web.Response:
        async with self._upstream.request("GET", MODELS, headers=_forwarded(request)) as answer:
            if answer.status != 200 or not self._names.differ:
                return await _passed_on(answer)
            return web.json_response({"object": "list", "data": await self._cards(answer)})

    async def model(self, request: web.Request) -> web.Response:
        """Answer with one model of the list: vLLM has no path for a single model (not reported)."""
        async with self._upstream.request("GET", MODELS, headers=_forwarded(request)) as answer:
            if answer.status != 200:
                return await _passed_on(answer)
            cards = await self._cards(answer)
        requested = request.match_info["model"]
        for card in cards:
            if card.get("id") == requested:
                return web.json_response(card)
        raise no_such_model(requested, str(cards[0].get("id")) if cards else "none")

    async def _cards(self, answer: aiohttp.ClientResponse) -> list[dict[str, Any]]:
        """The models in an answer of GET /v1/models, by the names that clients use. Raises ApiError 502."""
        return self._names.cards(_cards(await read_bounded(answer, MAX_ANSWER)))

    async def generate(self, request: web.Request) -> web.StreamResponse:
        async with self._bodies.reading(request) as body:
            return await self._generate(request, body)

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """Pass an answer on unchanged: it generates nothing, so it counts for no drift, and nobody rates it."""
        async with self._bodies.reading(request) as body:
            if self._names.differ:
                body = self._names.addressed(parse_json(body))
            elif not is_unicode(body):
                parse_json(body)
            async with self._upstream.request("POST", EMBEDDINGS, body, _forwarded(request)) as answer:
                if answer.status != 200:
                    return await _passed_on(answer)
                return await self._in_blocks(request, answer)

    async def _generate(self, request: web.Request, body: bytes) -> web.StreamResponse:
        # Parsing a long body delays all answers, so it waits until the engine has accepted the request. Invalid Unicode
        # is the exception, as engines fail on it.
        if not request.get(COPIED) and self._mirror.chosen(len(body)):
            request[_COPY] = body
        document = None
        if self._names.differ or len(body) <= SMALL or not is_unicode(body):
            document = _checked(request, body)
        if document is not None and self._names.differ:
            body = self._names.addressed(document)
        async with self._upstream.request("POST", _path(request), body, _forwarded(request)) as answer:
            if answer.status != 200:
                return await _passed_on(answer)
            document = _checked(request, body) if document is None else document
            prompt = _prompt(request, document)
            if prompt.text and not request.get(COPIED):
                self._drift.count(prompt.text, user_of(document))
            # A rating of an answer by a chosen arm counts for the version, and not for the revision in its canary.
            revision = CHOSEN_ROUTE if _is_chosen(request) else self._revision
            identity = self._signer.sign(self._version, revision, prompt.hash, time.time())
            if answer.content_type == "text/event-stream":
                return await self._stream(request, answer, identity, prompt)
            return await self._whole(request, answer, identity, prompt)

    async def _whole(
        self, request: web.Request, answer: aiohttp.ClientResponse, identity: str, prompt: Prompt
    ) -> web.Response:
        try:
            rewritten = rewrite(await read_bounded(answer, MAX_ANSWER), identity, self._format(request))
        except ValueError as error:
            raise ApiError(502, f"the engine's answer can't be read: {error}", code="engine_failed") from error
        self._readiness.proven()
        request[_OUTCOME] = Outcome(rewritten.tokens, ending=rewritten.ending)
        self._remember(request, identity, Answer(prompt, rewritten.text, rewritten.whole))
        return web.Response(body=rewritten.body, content_type="application/json")

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, identity: str, prompt: Prompt
    ) -> web.StreamResponse:
        """Pass the events on. After the 200 is sent, a failure is reported as an event in the stream."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        events = EventRewriter(identity, self._format(request))
        first_token = None
        try:
            await to_client(response.prepare(request))
            async for block in answer.content.iter_any():
                rewritten = events.feed(block)
                if first_token is None and events.begun:
                    first_token = time.monotonic() - request[_BEGAN]
                if rewritten:
                    await to_client(response.write(rewritten))
            await to_client(response.write(events.flush()))
            if events.failed:
                request[_CODE] = 500  # the client got a 200 and then the engine's error event
            else:
                self._readiness.proven()
        except ClientGone:
            request[_CODE] = CLIENT_GONE
        except (aiohttp.ClientError, AnswerTooLong, TimeoutError) as error:
            failure = broken_off(error, self._upstream.timeout)
            request[_CODE] = failure.status
            message = error_body(failure.status, failure.message, code=failure.code)
            with suppress(ClientGone):
                await to_client(response.write(b"data: " + json.dumps(message).encode() + b"\n\n"))
        finally:
            request[_OUTCOME] = Outcome(events.tokens, first_token, events.ending)
            self._remember(request, identity, Answer(prompt, events.text, events.whole))
        return response

    async def _in_blocks(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass a long answer on without holding it. If the engine fails meanwhile, the connection is aborted."""
        response = web.StreamResponse(headers={"Content-Type": answer.headers.get("Content-Type", "application/json")})
        try:
            await pass_blocks(request, answer, response)
        except ClientGone:
            request[_CODE] = CLIENT_GONE
        except (aiohttp.ClientError, TimeoutError) as error:
            request[_CODE] = broken_off(error, self._upstream.timeout).status
        return response

    def _format(self, request: web.Request) -> Format:
        model = self._names.of_clients if self._names.differ else None
        return Responses(model) if _path(request) == RESPONSES else Choices(model)

    def _remember(self, request: web.Request, identity: str, answer: Answer) -> None:
        """Keep the answer for feedback, and for its pair. Nobody gets the answer to a copy."""
        if _COPY in request:
            request[_TEXT] = answer.completion
        if not request.get(COPIED):
            self._memory.add(identity, answer)

    def _count(self, request: web.Request, code: int, seconds: float, *, counts: bool) -> None:
        """Count a user's request, and send its copy if it was chosen."""
        outcome = replace(request.get(_OUTCOME, Outcome()), counts=counts)
        self._metrics.request(CHOSEN_ROUTE if _is_chosen(request) else _path(request), code, seconds, outcome)
        if name := request.get(CLIENT_NAME):
            self._metrics.client(name, code, outcome.tokens)
        body = request.get(_COPY)
        # Refused requests and those that their clients gave up have no answer to compare with.
        if body is not None and (code == 200 or code >= 500):
            text = request.get(_TEXT, "")
            answered = Answered(code != 200, seconds, outcome.tokens, digest(text) if text else b"")
            self._mirror.copy(_path(request), body, answered)

    @web.middleware
    async def _slow_down(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Delay the answers of a client whose requests are refused one after another. The delay is not measured."""
        response = await handler(request)
        if 400 <= response.status < 500 and not request.get(COPIED):
            await asyncio.sleep(self._refusals.delay(client_of(request)))
        return response

    @web.middleware
    async def _measure(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began, code = time.monotonic(), 500
        request[_BEGAN] = began
        if request.get(COPIED):  # of no user
            return await handler(request)
        is_sample = not _is_chosen(request)
        counts = is_sample and _path(request) in GENERATING and self._weights.counts(client_of(request))
        self._metrics.in_progress.inc()
        try:
            response = await handler(request)
            code = request.get(_CODE, response.status)
            return response
        except (asyncio.CancelledError, ConnectionError):
            code = CLIENT_GONE
            raise
        finally:
            self._metrics.in_progress.dec()
            self._count(request, code, time.monotonic() - began, counts=counts)


def _is_chosen(request: web.Request) -> bool:
    """Whether the client has named an arm of a canary, so that the request is no sample of all requests."""
    return VERSION_HEADER in request.headers


def _path(request: web.Request) -> str:
    """The path without a slash at the end, which some clients add."""
    return request.path.rstrip("/")


def _checked(request: web.Request, body: bytes) -> dict[str, Any]:
    """The body as an object. Raises ApiError 400, also for fields that would need an answer to be kept."""
    document = parse_json(body)
    for field in _STATEFUL if _path(request) == RESPONSES else ():
        if document.get(field):
            advice = "answers are not kept here: send the whole conversation as input, and wait for the answer"
            raise ApiError(400, f"{field}: {advice}", param=field, code="unsupported_parameter")
    return document


def _prompt(request: web.Request, document: dict[str, Any]) -> Prompt:
    prompt = prompt_of_response(document) if _path(request) == RESPONSES else prompt_of(document)
    return prompt or Prompt("")


def _forwarded(request: web.Request) -> dict[str, str]:
    """Headers for the engine: tracing, and the client, among whom the engine shares its time."""
    tracing = {name: request.headers.get(name, "") for name in _TRACING}
    valid = {name: value for name, value in tracing.items() if _HEADER_VALUE.fullmatch(value)}
    client = client_of(request)
    return valid | ({CLIENT: client} if client else {})


def _cards(body: bytes) -> list[dict[str, Any]]:
    """The models in an answer of GET /v1/models. Raises ApiError 502."""
    try:
        return [card for card in json.loads(body)["data"] if isinstance(card, dict)]
    except (ValueError, TypeError, KeyError) as error:
        raise ApiError(502, "the engine's list of models can't be read", code="engine_failed") from error


async def _passed_on(answer: aiohttp.ClientResponse) -> web.Response:
    """The engine's answer without a change. An error in another form than OpenAI's is put into it."""
    headers = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
    body = await read_bounded(answer, MAX_ANSWER)
    if answer.status < 400 or _is_error(body):
        return web.Response(body=body, status=answer.status, content_type=answer.content_type, headers=headers)
    path = answer.url.path
    if answer.status in (404, 405):
        return error_response(ApiError(404, f"this service's engine has no {path}", code="unsupported_endpoint"))
    said = f": {body[:_QUOTED].decode(errors='replace')}" if answer.content_type == "application/json" else ""
    message = f"the engine answered {path} with status {answer.status}{said}"
    return error_response(ApiError(answer.status, message, headers=headers))


def _is_error(body: bytes) -> bool:
    """Whether it is an error in OpenAI's form."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and isinstance(document.get("error"), dict)
