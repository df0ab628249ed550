"""The parts of the OpenAI API that engine and proxy share: paths, parsing of bodies, and error bodies."""

import gc
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from aiohttp import web

log = logging.getLogger(__name__)

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
MODELS = "/v1/models"
CLIENT = "X-Driftloop-Client"  # from the proxy to the engine: the client's address, for a fair share of the engine
INTERNAL_ERROR = "internal server error; see the server's log"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_MESSAGE = 1000  # characters of an error message: it may quote the request, whose text may be megabytes
_SURROGATE = re.compile("[\ud800-\udfff]")
# A high surrogate without a low one after it, or a low surrogate without a high one before it.
_LONE_ESCAPE = re.compile(r"\\u[dD](?:[89abAB](?!..\\u[dD][c-fC-F])|[c-fC-F](?<!\\u[dD][89abAB]..\\u[dD].))", re.DOTALL)
MAX_SEARCHED = 1 << 18  # characters: in a longer body the field with the fault is not searched for, to save time


class ApiError(Exception):
    """An error response. `param` names the faulty field, `code` is a fixed word for programs."""

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
    """The JSON body in which OpenAI's clients expect an error."""
    kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    default = "invalid_request_error" if status < 500 else "server_error"
    message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}…"
    return {"error": {"message": message, "type": kind.get(status, default), "param": param, "code": code}}


def error_response(error: ApiError) -> web.Response:
    body = error_body(error.status, error.message, error.param, error.code)
    return web.json_response(body, status=error.status, headers=error.headers)


def no_such_model(requested: str, served: str) -> ApiError:
    """The 404 for a request that names another model than the served one."""
    return ApiError(
        404, f"the model {requested[:200]!r} is not served here, only {served!r}", param="model", code="model_not_found"
    )


def add_route(app: web.Application, method: str, path: str, handler: Handler) -> None:
    """Serve `path`, with and without a slash at the end: clients with a base URL often add one."""
    for variant in (path, f"{path}/"):
        if method == "GET":
            app.router.add_get(variant, handler)
        else:
            app.router.add_route(method, variant, handler)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return every error in OpenAI's form, also the errors that aiohttp raises (404, 405, 413)."""
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
    except RecursionError:  # only the request's own data can be nested this deeply
        return error_response(ApiError(400, "the body is nested too deeply", code="invalid_value"))
    except Exception:
        if request.writer.output_size:
            raise  # the response has started, so it can only be aborted
        log.exception("%s %s failed", request.method, request.path)
        return error_response(ApiError(500, INTERNAL_ERROR))


def refusal_of(request: web.BaseRequest, error: web.HTTPException) -> ApiError:
    """An error that aiohttp raised, as an ApiError."""
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return ApiError(error.status, f"{request.method} {request.path}: {error.reason}", headers=allow)


async def read_json(request: web.Request) -> dict[str, Any]:
    """Parse the body as a JSON object. Raises ApiError 400."""
    return parse_json(await request.read())


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse `body` as a JSON object whose strings are valid Unicode. Raises ApiError 400."""
    try:
        text, has_raw_surrogates = _decode(body)
        lone = _lone_surrogate(text, has_raw_surrogates)
        if lone and len(text) > MAX_SEARCHED:
            raise _invalid_unicode("the body", f"at character {lone.start()}", None)
        with without_collector():
            document = json.loads(text)
    except RecursionError as error:
        raise ApiError(400, "the body can't be read as JSON: nested too deeply", code="invalid_json") from error
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(document, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    if lone:
        _refuse_lone_surrogates(document)
    return document


def is_unicode(body: bytes) -> bool:
    """Whether the strings in a JSON body are valid Unicode. Much faster than `parse_json`: no objects are created."""
    try:
        return not _lone_surrogate(*_decode(body))
    except ValueError:
        return False


def _lone_surrogate(text: str, has_raw_surrogates: bool) -> re.Match[str] | None:
    """The first half of a surrogate pair without its other half, raw or escaped.

    One search of the text: visiting every value takes seconds.
    """
    if has_raw_surrogates:
        return _SURROGATE.search(text)
    return _LONE_ESCAPE.search(text.replace("\\\\", "..")) if "\\u" in text else None


@contextmanager
def without_collector() -> Iterator[None]:
    """Turn the garbage collector off: for JSON of many lists it stops all threads again and again, for nothing.

    CPython's collector runs by the number of new objects (https://github.com/python/cpython/issues/75288).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _decode(body: bytes) -> tuple[str, bool]:
    """The text, and whether it has raw (not escaped) surrogates. Raises ValueError."""
    encoding = json.detect_encoding(body)
    try:
        return body.decode(encoding), False
    except UnicodeDecodeError:
        return body.decode(encoding, "surrogatepass"), True


def _refuse_lone_surrogates(document: dict[str, Any]) -> None:
    """Raise ApiError 400 that names the field: JSON can hold lone surrogates, but tokenizers and hashes can't."""
    for names, value in _values(document):
        if isinstance(value, str) and (lone := _SURROGATE.search(value)):
            path = [ascii(str(name))[1:-1][:100] for name in names]
            position = f"U+{ord(lone.group()):04X}, at character {lone.start()}"
            raise _invalid_unicode(".".join(path), position, path[0])


def _invalid_unicode(field: str, position: str, param: str | None) -> ApiError:
    return ApiError(
        400,
        f"{field}: not valid Unicode: half of a surrogate pair, {position}: the text was cut in the middle of a "
        "character, such as an emoji",
        param=param,
        code="invalid_unicode",
    )


def _values(document: dict[str, Any]) -> Iterator[tuple[Sequence[object], Any]]:
    """Every key and value of a document, each with the names on the path to it.

    Not recursive, as a document may be nested very deeply. All paths share one list: for deep values separate lists
    would take gigabytes.
    """
    names: list[object] = [""]
    levels = [_items(document)]
    while levels:
        for names[-1], value in levels[-1]:
            yield names, value
            if isinstance(value, dict | list):
                names.append("")
                levels.append(_items(value))
                break
        else:
            names.pop()
            levels.pop()


def _items(value: dict[str, Any] | list[Any]) -> Iterator[tuple[object, Any]]:
    """The items of a list with their indices, or of an object with their names: each key, then its value."""
    if isinstance(value, list):
        yield from enumerate(value)
        return
    for key, inner in value.items():
        yield key, key
        yield key, inner
