"""Sends an answer to the client, block by block."""

from collections.abc import Awaitable

import aiohttp
from aiohttp import web


class ClientGone(Exception):
    """The client's connection broke. aiohttp raises the same error for the engine's connection."""


async def to_client(sending: Awaitable[object]) -> None:
    """Await something that is sent to the client. Raises ClientGone."""
    try:
        await sending
    except ConnectionError as error:
        raise ClientGone from error


async def pass_blocks(request: web.Request, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
    """Pass an answer on without holding it.

    Raises ClientGone, and the errors of `answer`. Then the client's connection is aborted, so that nobody takes a part
    of the answer for all of it.
    """
    response.content_length = answer.content_length
    await to_client(response.prepare(request))
    try:
        async for block in answer.content.iter_any():
            await to_client(response.write(block))
    except (aiohttp.ClientError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
        raise
