"""What engine and proxy share of the OpenAI API: paths and the body of an error."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

log = logging.getLogger(__name__)

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
CLIENT = "X-Driftloop-Client"  # from the proxy to the engine: who asks, and has its fair part of the engine

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """An answer that is an error. `param` is the field at fault, `code` a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The JSON that OpenAI's clients know as an error."""
    kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    default = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind.get(status, default), "param": param, "code": code}}


def error_response(error: ApiError) -> web.Response:
    body = error_body(error.status, error.message, error.param, error.code)
    return web.json_response(body, status=error.status, headers=error.headers)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error leaves in OpenAI's form, those of aiohttp (404, 405, 413) too."""
    try:
        return await handler(request)
    except ApiError as error:
        return error_response(error)
    except web.HTTPRequestEntityTooLarge as error:
        return error_response(ApiError(413, f"the body is too large: {error.text}", code="body_too_large"))
    except web.RequestPayloadError as error:
        return error_response(ApiError(400, f"the body can't be read: {error}"))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return error_response(ApiError(error.status, f"{request.method} {request.path}: {error.reason}", headers=allow))
    except Exception:
        if request.writer.output_size:
            raise  # the answer has begun: all that is left is to break it off
        log.exception("%s %s failed", request.method, request.path)
        return error_response(ApiError(500, "an error of this server; see its log"))


async def read_json(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object. Raises ApiError 400."""
    return parse_json(await request.read())


def parse_json(body: bytes) -> dict[str, Any]:
    """`body` as a JSON object. Raises ApiError 400."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(found, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return found
