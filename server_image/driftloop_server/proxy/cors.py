"""Cross-origin requests: which web pages may call the API from a browser.

Only browsers respect these headers, to protect their users; other clients need none. Credentials are never allowed, as
the API doesn't use cookies. The rules: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from collections.abc import Sequence

from aiohttp import web

from driftloop_server.openai_api import ApiError, Handler, error_response

ANY = "*"
_MAX_AGE = "600"  # seconds for which a browser caches a preflight
_EXPOSED = "Retry-After"


class Cors:
    """Answers preflights, and adds headers to answers for allowed `origins`. Without origins it does nothing."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)

    @web.middleware
    async def preflight(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The outermost middleware: a preflight is not a request to the model, so metrics must not count it."""
        if not self._origins or request.method != "OPTIONS" or not _is_preflight(request):
            return await handler(request)
        origin = request.headers["Origin"]
        if self._allowed(origin) is None:
            return error_response(ApiError(403, f"origin {origin[:200]} is not in the service's spec.allowedOrigins"))
        headers = {"Access-Control-Allow-Methods": _methods(request), "Access-Control-Max-Age": _MAX_AGE}
        if requested := request.headers.get("Access-Control-Request-Headers"):
            headers["Access-Control-Allow-Headers"] = requested  # unknown headers are not passed on to the engine
        return web.Response(status=204, headers=headers)

    async def mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers to an answer before it is sent; also to errors and streams."""
        if not self._origins:
            return
        if ANY not in self._origins:
            response.headers.add("Vary", "Origin")
        if allowed := self._allowed(request.headers.get("Origin", "")):
            response.headers["Access-Control-Allow-Origin"] = allowed
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED

    def _allowed(self, origin: str) -> str | None:
        if ANY in self._origins:
            return ANY
        return origin if origin in self._origins else None


def _is_preflight(request: web.Request) -> bool:
    """Whether a browser sent this as a preflight for an existing path."""
    asks = "Origin" in request.headers and "Access-Control-Request-Method" in request.headers
    return asks and isinstance(request.match_info.http_exception, web.HTTPMethodNotAllowed)


def _methods(request: web.Request) -> str:
    """The methods that the path allows."""
    refusal = request.match_info.http_exception
    return ", ".join(sorted(refusal.allowed_methods)) if isinstance(refusal, web.HTTPMethodNotAllowed) else ""
