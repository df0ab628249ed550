"""HTTP GET requests with limits on size and time."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from driftloop.controller.vocabulary.samples import MetricsUnavailable


async def fetch(
    session: aiohttp.ClientSession, url: str, params: list[tuple[str, str]] | None, limit: int, seconds: float
) -> bytes:
    """The body of a 200 response of at most `limit` bytes within `seconds`. Raises MetricsUnavailable."""
    try:
        async with (
            asyncio.timeout(seconds),
            session.get(url, params=params, allow_redirects=False) as response,
        ):
            body = await _read(response, limit)
            if response.status != 200:
                raise MetricsUnavailable(f"{url}: {response.status} {body[:200].decode(errors='replace')}")
            return body
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise MetricsUnavailable(f"{url}: {str(error) or type(error).__name__}") from error


async def fetch_json(
    session: aiohttp.ClientSession,
    url: str,
    params: list[tuple[str, str]] | None = None,
    *,
    limit: int = 8 << 20,
    seconds: float = 10.0,
) -> Any:
    """The JSON document at `url`, with the limits of `fetch`. Raises MetricsUnavailable."""
    body = await fetch(session, url, params, limit, seconds)
    try:
        return json.loads(body)
    except ValueError as error:
        raise MetricsUnavailable(f"{url}: not JSON: {body[:100].decode(errors='replace')}") from error


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    parts: list[bytes] = []
    left = limit
    async for part in response.content.iter_chunked(65536):
        left -= len(part)
        if left < 0:
            raise MetricsUnavailable(f"{response.url}: more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def field(obj: Any, name: str, kind: type, where: str) -> Any:
    """`obj[name]`, which must be of type `kind`. Raises MetricsUnavailable."""
    value = obj.get(name) if isinstance(obj, Mapping) else None
    if not isinstance(value, kind):
        raise MetricsUnavailable(f"{where}: no {name} in the answer")
    return value
