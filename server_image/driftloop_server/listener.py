"""A listener that returns every error in the API's form.

aiohttp answers some errors itself, without the middlewares: malformed HTTP, and an `Expect` header that it doesn't know
(not reported).
"""

import ssl

from aiohttp import web

from driftloop_server.openai_api import INTERNAL_ERROR, ApiError, error_response, refusal_of

# Idle connections are closed by the clients. If the proxy closed one, it could lose a request that is on its way.
KEEPALIVE = 3600.0


async def listen(app: web.Application, port: int, *, cancel: bool, tls: ssl.SSLContext | None = None) -> web.AppRunner:
    """Serve `app` on a port of the pod. `cancel`: end the handler of a request whose client has left."""
    runner = ApiRunner(
        app, access_log=None, handler_cancellation=cancel, keepalive_timeout=KEEPALIVE, shutdown_timeout=1
    )
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port, ssl_context=tls).start()  # noqa: S104 - a pod's port; NetworkPolicies guard it
    return runner


class ApiRunner(web.AppRunner):
    """An AppRunner that answers malformed HTTP with the API's error body."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()

        async def handled(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await server.request_handler(request)
            except web.HTTPException as error:  # raised before the middlewares run: an unknown Expect header
                return error_response(refusal_of(request, error))

        return _Server(
            handled,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            **server._kwargs,
        )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # logs, and aborts a response that has started
        text = INTERNAL_ERROR if status >= 500 else f"not valid HTTP: {' '.join((message or '').split())}"
        response = error_response(ApiError(status, text))
        response.force_close()
        return response
