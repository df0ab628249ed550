"""Reads the bodies of requests, with limits on their size, their time, and the memory of all of them together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from driftloop_server.openai_api import ApiError
from driftloop_server.proxy.clients import client_of
from driftloop_server.proxy.pace import BODIES, Pace
from driftloop_server.proxy.room import Room

MAX_BODY = 4 << 20  # bytes of a request
SMALL = 1 << 16  # bytes: bodies up to this size don't wait and are parsed at once
BODY_SECONDS = 30.0  # time in which the whole body must arrive


class Bodies:
    """Limits what the bodies of all clients cost."""

    def __init__(self, pace: Pace | None = None, room: Room | None = None) -> None:
        self._pace, self._room = pace or Pace(BODIES), room or Room()

    @asynccontextmanager
    async def reading(self, request: web.Request) -> AsyncIterator[bytes]:
        """Read the body, and hold room for it until the end of the block. Raises ApiError 408, 413, 429."""
        with self._room.holding() as hold:
            yield await self._body(request, hold)

    async def _body(self, request: web.Request, hold: Callable[[int], None]) -> bytes:
        """Read the body. Room for it is held as soon as its length is known."""
        length = request.content_length or 0
        hold(min(length, MAX_BODY))
        await self._take_turn(request, length)
        body = await _read(request, length, hold)
        await self._take_turn(request, len(body) - length)  # a chunked or compressed body is longer than declared
        return body

    async def _take_turn(self, request: web.Request, size: int) -> None:
        """Delay a long body. If its length is declared, it waits unread and takes no memory."""
        if size > SMALL:
            await asyncio.sleep(self._pace.delay(client_of(request), size))


async def _read(request: web.Request, held: int, hold: Callable[[int], None]) -> bytes:
    """Read the body. `held`: bytes that room is held for already. Raises ApiError 408, 413, 429.

    Not with `request.read()`: aiohttp keeps its result as long as the request (not reported).
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while len(body) <= MAX_BODY and (block := await request.content.readany()):
                body += block
                if len(body) > held:
                    hold(len(body) - held)
                    held = len(body)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:.0f} s") from None
    if len(body) > MAX_BODY:
        raise ApiError(413, f"the body is too large: at most {MAX_BODY} bytes are allowed", code="body_too_large")
    return bytes(body)
