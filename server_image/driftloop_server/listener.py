"""A port whose errors are in the API's form, those of the HTTP library too, which no middleware sees."""

from aiohttp import web

from driftloop_server.openai_api import ApiError, error_response, refusal_of


class ApiRunner(web.AppRunner):
    """An AppRunner that answers HTTP which can't be read as the application answers a bad request."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()

        async def handled(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await made.request_handler(request)
            except web.HTTPException as error:  # raised before the middlewares: an Expect that is not known
                return error_response(refusal_of(request, error))

        return _Server(
            handled,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
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
        super().handle_error(request, status, exc, message)  # logs, and breaks off an answer that has begun
        ours = status >= 500
        words = "an error of this server; see its log" if ours else f"not HTTP: {' '.join((message or '').split())}"
        response = error_response(ApiError(status, words))
        response.force_close()
        return response
