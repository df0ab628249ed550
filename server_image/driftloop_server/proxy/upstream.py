"""Sends requests to the engine, and turns its failures into errors for the client."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import aiohttp

from driftloop.contract.names import ENGINE_UNAVAILABLE
from driftloop_server.openai_api import COMPLETIONS, ApiError

# Seconds, less than any engine's. vLLM's server (uvicorn) closes idle connections after 5 s, and a request on a closing
# connection is lost: https://github.com/vllm-project/vllm/pull/18472
KEEPALIVE = 2.0
CONNECT_SECONDS = 5.0
PROBE_SECONDS = 10.0
HEALTH_SECONDS = 8.0  # less than the timeout of the kubelet's probe
BUSY = "its queue is full"
MAX_METRICS = 4 << 20  # bytes
MAX_ANSWER = 32 << 20  # bytes of an answer that isn't streamed


class Upstream:
    """A client of the engine's API. `timeout`: seconds until the answer must be complete.

    There is no timeout for silence, as an answer that isn't streamed is silent until its end. The probes detect an
    engine that hangs; its restart aborts its answers.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.timeout = timeout
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
        """Request one token. Returns what went wrong, or None."""
        body = json.dumps({"model": model, "prompt": "ready?", "max_tokens": 1, "temperature": 0}).encode()
        try:
            async with asyncio.timeout(PROBE_SECONDS), self.request("POST", COMPLETIONS, body) as answer:
                if answer.status == 429:
                    return BUSY
                if answer.status != 200:
                    return f"status {answer.status}"
                document: dict[str, Any] = json.loads(await read_bounded(answer, MAX_ANSWER))
        except TimeoutError:
            return f"no answer within {PROBE_SECONDS:.0f} s"
        except (ApiError, ValueError) as error:
            return str(error)
        usage = document.get("usage") if isinstance(document, dict) else None
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        return None if tokens else "an answer without a token"

    async def hangs(self) -> str | None:
        """Why the engine should be restarted; None if it answers, or if nothing listens because it is starting."""
        try:
            async with asyncio.timeout(HEALTH_SECONDS), self._session.get("/health") as answer:
                return None if answer.status < 500 else f"/health returns status {answer.status}"
        except aiohttp.ClientConnectorError:
            return None
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"/health doesn't answer: {str(error) or type(error).__name__}"

    async def metrics(self) -> bytes:
        """The engine's metrics with vLLM's names; empty if it has none."""
        try:
            async with asyncio.timeout(2), self.request("GET", "/metrics") as answer:
                text = await read_bounded(answer, MAX_METRICS) if answer.status == 200 else b""
        except (ApiError, TimeoutError):
            return b""
        prefixes = (b"vllm:", b"# HELP vllm:", b"# TYPE vllm:")
        return b"".join(line for line in text.splitlines(keepends=True) if line.startswith(prefixes))


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
