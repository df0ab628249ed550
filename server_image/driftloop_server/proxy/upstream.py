"""Sends requests to the engine, and turns its failures into errors for the client."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import aiohttp

from driftloop.contract.names import ENGINE_UNAVAILABLE
from driftloop_server.openai_api import CHAT, COMPLETIONS, ApiError

# Seconds, less than any engine's. vLLM's server (uvicorn) closes idle connections after 5 s, and a request on a closing
# connection is lost: https://github.com/vllm-project/vllm/pull/18472
KEEPALIVE = 2.0
CONNECT_SECONDS = 5.0
PROBE_SECONDS = 10.0
HEALTH_SECONDS = 8.0  # less than the timeout of the kubelet's probe
BUSY = "its queue is full"
# A request for a token. Some servers only chat, and answer other paths with 404 or 405.
_PROMPTS: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "ready?"},
    CHAT: {"messages": [{"role": "user", "content": "ready?"}]},
}
MAX_METRICS = 4 << 20  # bytes
MAX_ANSWER = 32 << 20  # bytes of an answer that isn't streamed


class Upstream:
    """A client of the engine's API. `timeout`: seconds until the answer must be complete.

    `readiness_path` is answered with 2xx once the model is loaded; None: the engine listens only then.

    There is no timeout for silence, as an answer that isn't streamed is silent until its end. The probes detect an
    engine that hangs; its restart aborts its answers.
    """

    def __init__(self, url: str, timeout: float, readiness_path: str | None = None) -> None:
        self.timeout = timeout
        self._readiness_path = readiness_path
        self._is_loading = readiness_path is not None  # it listens, but may not have loaded the model since its start
        self._session = aiohttp.ClientSession(
            url,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE),
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    @asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a new request with the client's body, and no other headers of the client than `headers`.

        Leaving the context early closes the connection, so the engine cancels the request. Raises ApiError 502, 503 or
        504, also from within the block.
        """
        ours = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        try:
            async with self._session.request(method, path, data=body, headers=ours | dict(headers or {})) as answer:
                yield answer
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ApiError(
                503, "the engine is not available: try again", code=ENGINE_UNAVAILABLE, headers={"Retry-After": "1"}
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise broken_off(error, self.timeout) from error

    async def generates_a_token(self, model: str) -> str | None:
        """Request one token, from an engine with a readiness path once it has answered there with 2xx.

        Returns what went wrong, or None.
        """
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                return await self._loads() or await self._one_token(model)
        except TimeoutError:
            return f"no answer within {PROBE_SECONDS:.0f} s"
        except (ApiError, ValueError) as error:
            return str(error)

    async def _loads(self) -> str | None:
        """Why the model is not loaded yet, as the readiness path tells; None if it is. Raises ApiError."""
        if self._readiness_path is None:
            return None
        try:
            async with self.request("GET", self._readiness_path) as answer:
                if not 200 <= answer.status < 300:
                    return f"GET {self._readiness_path} returns status {answer.status}"
        except ApiError as error:
            self._is_loading |= error.code == ENGINE_UNAVAILABLE  # it restarts, or does not listen yet
            raise
        self._is_loading = False
        return None

    async def _one_token(self, model: str) -> str | None:
        """Why the engine generates no token. Raises ApiError and ValueError."""
        status, document = 404, None
        ask = {"model": model, "max_tokens": 1, "temperature": 0}
        for path, prompt in _PROMPTS.items():
            if status not in (404, 405):
                break
            async with self.request("POST", path, json.dumps(ask | prompt).encode()) as answer:
                status, document = answer.status, await read_bounded(answer, MAX_ANSWER)
        if status != 200:
            return BUSY if status == 429 else f"status {status}"
        return _without_token(json.loads(document or b""))

    async def hangs(self) -> str | None:
        """Why the engine should be restarted; None if it answers, or if nothing listens because it is starting.

        503 before the first success of a readiness path means that a model is loading.
        """
        path = self._readiness_path or "/health"
        try:
            async with asyncio.timeout(HEALTH_SECONDS), self._session.get(path) as answer:
                if answer.status < 500 or (self._is_loading and answer.status == 503):
                    return None
                return f"{path} returns status {answer.status}"
        except aiohttp.ClientConnectorError:
            self._is_loading = self._readiness_path is not None
            return None
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"{path} doesn't answer: {str(error) or type(error).__name__}"

    async def metrics(self) -> bytes:
        """The engine's metrics with vLLM's names; empty if it has none."""
        try:
            async with asyncio.timeout(2), self.request("GET", "/metrics") as answer:
                text = await read_bounded(answer, MAX_METRICS) if answer.status == 200 else b""
        except (ApiError, TimeoutError):
            return b""
        prefixes = (b"vllm:", b"# HELP vllm:", b"# TYPE vllm:")
        return b"".join(line for line in text.splitlines(keepends=True) if line.startswith(prefixes))


def _without_token(document: Any) -> str | None:
    usage = document.get("usage") if isinstance(document, dict) else None
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return None if tokens else "an answer without a token"


def broken_off(error: Exception, timeout: float) -> ApiError:
    """The error for a client whose answer was aborted."""
    if isinstance(error, TimeoutError):
        return ApiError(
            504,
            f"the answer took longer than this service's {timeout:g} s: ask for fewer tokens, or set its "
            "requestTimeoutSeconds",
            code="engine_timeout",
        )
    return ApiError(502, f"the engine aborted the answer: {type(error).__name__}", code="engine_failed")


async def read_bounded(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read the whole body. Raises ApiError 502 above `limit` bytes."""
    body = bytearray()
    async for block in answer.content.iter_any():
        body += block
        if len(body) > limit:
            raise ApiError(502, f"the engine's answer is longer than {limit} bytes", code="engine_failed")
    return bytes(body)
