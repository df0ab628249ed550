"""The door's handlers. It lists the model itself, so that a list wakes no pod, and holds everything else."""

import asyncio

import aiohttp
from aiohttp import web

from driftloop.contract.names import BUCKET_HEADER, VERSION_HEADER
from driftloop_server.door.metrics import DoorMetrics
from driftloop_server.door.pods import Pods
from driftloop_server.openai_api import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MODELS,
    RESPONSES,
    Handler,
    add_route,
    errors_as_json,
    no_such_model,
    parse_json,
)
from driftloop_server.proxy.activity import Busy
from driftloop_server.proxy.bodies import Bodies
from driftloop_server.proxy.clients import KeyCheck
from driftloop_server.proxy.cors import Cors
from driftloop_server.proxy.feedback import FEEDBACK, check_token
from driftloop_server.proxy.metrics import CLIENT_GONE
from driftloop_server.proxy.relay import ClientGone, pass_blocks
from driftloop_server.proxy.upstream import broken_off

# The pods check the key again, and read the other headers.
_REQUEST_HEADERS = ("Authorization", "traceparent", "tracestate", "X-Request-Id", VERSION_HEADER, BUCKET_HEADER)
_ANSWER_HEADERS = ("Content-Type", "Cache-Control", "Retry-After", "WWW-Authenticate")
_CODE = web.RequestKey("code", int)  # of an answer that failed after its 200 was sent


class Holder:
    """Holds requests until a serving pod takes them, and passes its answers on."""

    def __init__(self, pods: Pods, busy: Busy, bodies: Bodies, metrics: DoorMetrics) -> None:
        self._pods, self._busy, self._bodies, self._metrics = pods, busy, bodies, metrics

    async def hold(self, request: web.Request) -> web.StreamResponse:
        """Hold a request. One that no pod could read wakes none."""
        async with self._bodies.reading(request) as body:
            parse_json(body)
            with self._busy.running():
                async with self._pods.answer(request.path, body, _forwarded(request)) as answer:
                    return await self._pass(request, answer)

    async def _pass(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = {name: answer.headers[name] for name in _ANSWER_HEADERS if name in answer.headers}
        response = web.StreamResponse(status=answer.status, headers=headers)
        try:
            await pass_blocks(request, answer, response)
        except ClientGone:
            request[_CODE] = CLIENT_GONE
        except (aiohttp.ClientError, TimeoutError) as error:
            request[_CODE] = broken_off(error, self._pods.timeout).status
        return response

    @web.middleware
    async def measure(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        code = 500
        try:
            response = await handler(request)
            code = request.get(_CODE, response.status)
            return response
        except (asyncio.CancelledError, ConnectionError):
            code = CLIENT_GONE
            raise
        finally:
            if request.method == "POST":
                self._metrics.request(code)


class Door:
    """Serves the API of a service whose pods may be away."""

    def __init__(self, service: str, holder: Holder, cors: Cors, key_check: KeyCheck) -> None:
        self._service, self._holder = service, holder
        self._cors, self._key_check = cors, key_check

    def app(self) -> web.Application:
        outer = [self._cors.preflight, self._key_check.check]
        app = web.Application(middlewares=[*outer, self._holder.measure, errors_as_json])
        app.on_response_prepare.append(self._cors.mark)
        add_route(app, "GET", MODELS, self.models)
        add_route(app, "GET", MODELS + "/{model:.*[^/]}", self.model)
        for path in (COMPLETIONS, CHAT, RESPONSES, EMBEDDINGS):
            add_route(app, "POST", path, self._holder.hold)
        return app

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._card()]})

    async def model(self, request: web.Request) -> web.Response:
        if (requested := request.match_info["model"]) != self._service:
            raise no_such_model(requested, self._service)
        return web.json_response(self._card())

    def _card(self) -> dict[str, object]:
        return {"id": self._service, "object": "model", "created": 0, "owned_by": "driftloop"}


class Ratings:
    """Takes ratings on a port and with a token of their own, as a serving pod does."""

    def __init__(self, token: str, holder: Holder) -> None:
        self._token, self._holder = token.encode(), holder

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._holder.measure, errors_as_json])
        add_route(app, "POST", FEEDBACK, self.rate)
        return app

    async def rate(self, request: web.Request) -> web.StreamResponse:
        check_token(request, self._token)
        return await self._holder.hold(request)


def _forwarded(request: web.Request) -> dict[str, str]:
    """Headers for the pods. Not Origin: the door answers browsers itself."""
    given = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    return {"Content-Type": "application/json", "Accept-Encoding": "identity", **given}
