"""What engine and proxy share of the OpenAI API: paths, how a body is read, and the body of an error."""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from aiohttp import web

log = logging.getLogger(__name__)

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
CLIENT = "X-Driftloop-Client"  # from the proxy to the engine: who asks, and has its fair part of the engine

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_MESSAGE = 1000  # characters of an error's message: a request's own text, given back, may be megabytes
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")


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
    message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}…"
    return {"error": {"message": message, "type": kind.get(status, default), "param": param, "code": code}}


def error_response(error: ApiError) -> web.Response:
    body = error_body(error.status, error.message, error.param, error.code)
    return web.json_response(body, status=error.status, headers=error.headers)


def no_such_model(asked: str, served: str) -> ApiError:
    """The 404 for another model than the one that is here."""
    return ApiError(
        404, f"there is no model {asked[:200]!r} here, only {served!r}", param="model", code="model_not_found"
    )


def add_route(app: web.Application, method: str, path: str, handler: Handler) -> None:
    """Serve `path`, and the same with a slash after it, as many base URLs make it."""
    for each in (path, f"{path}/"):
        if method == "GET":
            app.router.add_get(each, handler)
        else:
            app.router.add_route(method, each, handler)


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
        return error_response(refusal_of(request, error))
    except RecursionError:  # wherever: only what came with the request is so deep
        return error_response(ApiError(400, "the body is nested too deeply", code="invalid_value"))
    except Exception:
        if request.writer.output_size:
            raise  # the answer has begun: all that is left is to break it off
        log.exception("%s %s failed", request.method, request.path)
        return error_response(ApiError(500, "an error of this server; see its log"))


def refusal_of(request: web.BaseRequest, error: web.HTTPException) -> ApiError:
    """What aiohttp refuses by itself, in our form."""
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return ApiError(error.status, f"{request.method} {request.path}: {error.reason}", headers=allow)


async def read_json(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object. Raises ApiError 400."""
    return parse_json(await request.read())


def parse_json(body: bytes) -> dict[str, Any]:
    """`body` as a JSON object of texts that are Unicode. Raises ApiError 400."""
    try:
        text, suspect = _decoded(body)
        found = json.loads(text)
    except RecursionError as error:
        raise ApiError(400, "the body is not JSON that can be read: nested too deeply", code="invalid_json") from error
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(found, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    if suspect or ("\\u" in text and _ESCAPED.search(text)):
        _refuse_lone_surrogates(found)
    return found


def is_plain(body: bytes) -> bool:
    """Whether `parse_json` could refuse it for its JSON alone: it is UTF-8 and spells no half of a surrogate pair."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return False
    return "\0" not in text[:4] and not ("\\u" in text and _ESCAPED.search(text))


def _decoded(body: bytes) -> tuple[str, bool]:
    """The text, and whether it has surrogates as they are. Raises ValueError."""
    encoding = json.detect_encoding(body)
    try:
        return body.decode(encoding), False
    except UnicodeDecodeError:
        return body.decode(encoding, "surrogatepass"), True


def _refuse_lone_surrogates(document: dict[str, Any]) -> None:
    """JSON can spell half a character of two halves; no tokenizer and no hash can take it."""
    for place, text in _texts(document):
        if lone := _SURROGATE.search(text):
            raise ApiError(
                400,
                f"{place}: not Unicode: half of a surrogate pair, U+{ord(lone.group()):04X}, at character "
                f"{lone.start()}: the text was cut in the middle of a character, such as an emoji",
                param=place.split(".")[0],
                code="invalid_unicode",
            )


def _texts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text in a document and its place, keys too. Not recursive: a document may be nested as deep as can be."""
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str):
            yield place, value
        elif isinstance(value, dict):
            for key, inner in value.items():
                name = ascii(key)[1:-1][:100]
                waiting += [(f"{place}.{name}".lstrip("."), each) for each in (inner, key)]
        elif isinstance(value, list):
            waiting += [(f"{place}.{index}", inner) for index, inner in enumerate(value)]
