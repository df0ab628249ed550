"""Hands requests to the serving pods once one is ready.

The pods are reached by a Service that selects the ready ones. A request that no pod has taken is held on. One whose
connection ends before an answer has begun is sent again, at most twice: a pod that stops may close a connection that it
has not read.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from driftloop_server.door.metrics import DoorMetrics
from driftloop_server.openai_api import ApiError
from driftloop_server.proxy.activity import Busy
from driftloop_server.proxy.upstream import broken_off

MOST_HELD = 256  # requests: as many as may wait in one built-in engine
ASK_SECONDS = 0.5  # between two attempts to connect
CONNECT_SECONDS = 3.0
RETRY_AFTER = 10  # seconds
MOST_LOST = 3  # connections without an answer, for one request


class Pods:
    """A client of the serving pods. `hold`: seconds that a request waits for one. `timeout`: for its answer."""

    def __init__(self, url: str, hold: float, timeout: float, busy: Busy, metrics: DoorMetrics) -> None:
        self._hold, self.timeout = hold, timeout
        self._busy, self._metrics = busy, metrics
        self._clock = asyncio.get_running_loop().time
        self._turn = asyncio.Lock()
        target = URL(url)
        self._host, self._port = target.host, target.port
        self._session = aiohttp.ClientSession(
            url,
            # A new connection per request: no pod closes it while a request is on its way.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS),
            auto_decompress=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    @asynccontextmanager
    async def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Hold a request until a pod takes it. Raises ApiError 503 if none does, 502 and 504 if one breaks off."""
        began, lost = self._clock(), 0
        async with AsyncExitStack() as answering:
            while True:
                await self._wait(began + self._hold)
                taken = self._clock()
                try:
                    asked = self._session.post(path, data=body, headers=headers)
                    answer = await answering.enter_async_context(asked)
                    break
                except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                    continue
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                    lost += 1
                    if lost >= MOST_LOST:
                        raise broken_off(error, self.timeout) from error
                except (aiohttp.ClientError, TimeoutError) as error:
                    raise broken_off(error, self.timeout) from error
            self._metrics.wait.observe(taken - began)
            yield answer

    async def _wait(self, deadline: float) -> None:
        """Wait until a pod accepts connections. Raises ApiError 503."""
        if self._busy.activity.held >= MOST_HELD:
            raise _unavailable("too many requests wait for it")
        try:
            with self._busy.holding(), self._metrics.held.track_inprogress():
                # Of all requests that wait, one asks at a time.
                async with asyncio.timeout_at(deadline), self._turn:
                    while not await self._accepts():  # noqa: ASYNC110 - no event tells when a pod is ready
                        await asyncio.sleep(ASK_SECONDS)
        except TimeoutError:
            raise _unavailable(f"none was ready within {self._hold:g} s") from None

    async def _accepts(self) -> bool:
        """Whether a pod accepts a connection now."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except OSError:  # also TimeoutError
            return False
        writer.close()
        return True


def _unavailable(why: str) -> ApiError:
    message = f"the service is asleep, and starts a pod: {why}. Send this request again"
    return ApiError(503, message, code="service_asleep", headers={"Retry-After": str(RETRY_AFTER)})
