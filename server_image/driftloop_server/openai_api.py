"""What engine and proxy share of the OpenAI API: paths, how a body is read, and the body of an error."""

import gc
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
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
# An upper half that no lower one follows, or a lower one that no upper one precedes.
_LONE_ESCAPE = re.compile(r"\\u[dD](?:[89abAB](?!..\\u[dD][c-fC-F])|[c-fC-F](?<!\\u[dD][89abAB]..\\u[dD].))", re.DOTALL)
MAX_SEARCHED = 1 << 18  # characters of a body in which the text at fault is looked for: its name is worth no more time


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
        half = _half(text, suspect)
        if half and len(text) > MAX_SEARCHED:
            raise _half_a_character("the body", f"at character {half.start()}", None)
        found = _loads(text)
    except RecursionError as error:
        raise ApiError(400, "the body is not JSON that can be read: nested too deeply", code="invalid_json") from error
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(found, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    if half:
        _refuse_lone_surrogates(found)
    return found


def is_unicode(body: bytes) -> bool:
    """Whether its texts are, if it is JSON: `parse_json` would not refuse them. Much faster, for nothing is built."""
    try:
        return not _half(*_decoded(body))
    except ValueError:
        return False


def _half(text: str, suspect: bool) -> re.Match[str] | None:
    """Half of a surrogate pair in JSON, as it is or escaped. One search: a walk of all values takes seconds."""
    if suspect:
        return _SURROGATE.search(text)
    return _LONE_ESCAPE.search(text.replace("\\\\", "..")) if "\\u" in text else None


def _loads(text: str) -> Any:
    """Without the garbage collector: JSON makes no garbage, and all threads wait while many values are looked at."""
    gc.disable()
    try:
        return json.loads(text)
    finally:
        gc.enable()


def _decoded(body: bytes) -> tuple[str, bool]:
    """The text, and whether it has surrogates as they are. Raises ValueError."""
    encoding = json.detect_encoding(body)
    try:
        return body.decode(encoding), False
    except UnicodeDecodeError:
        return body.decode(encoding, "surrogatepass"), True


def _refuse_lone_surrogates(document: dict[str, Any]) -> None:
    """JSON can spell half a character of two halves; no tokenizer and no hash can take it."""
    for names, value in _values(document):
        if isinstance(value, str) and (lone := _SURROGATE.search(value)):
            place = [ascii(str(name))[1:-1][:100] for name in names]
            where = f"U+{ord(lone.group()):04X}, at character {lone.start()}"
            raise _half_a_character(".".join(place), where, place[0])


def _half_a_character(place: str, where: str, param: str | None) -> ApiError:
    return ApiError(
        400,
        f"{place}: not Unicode: half of a surrogate pair, {where}: the text was cut in the middle of a character, "
        "such as an emoji",
        param=param,
        code="invalid_unicode",
    )


def _values(document: dict[str, Any]) -> Iterator[tuple[Sequence[object], Any]]:
    """Every value in a document after the names that lead to it, keys too.

    Not recursive: a document may be nested as deep as can be. The names are one list, or those of deep values would
    take gigabytes.
    """
    names: list[object] = [""]
    levels = [_named(document)]
    while levels:
        for names[-1], value in levels[-1]:
            yield names, value
            if isinstance(value, dict | list):
                names.append("")
                levels.append(_named(value))
                break
        else:
            names.pop()
            levels.pop()


def _named(value: dict[str, Any] | list[Any]) -> Iterator[tuple[object, Any]]:
    if isinstance(value, list):
        yield from enumerate(value)
        return
    for key, inner in value.items():
        yield key, key
        yield key, inner
