"""The number of request bytes held at once, over all clients: connections are unlimited, the proxy's memory is not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from driftloop_server.openai_api import ApiError

HELD = 128 << 20  # bytes: an eighth of the container's limit, about 30 of the longest bodies
_RETRY = {"Retry-After": "2"}  # seconds


class Room:
    """Counts the bytes that requests hold. A request whose bytes do not fit is refused."""

    def __init__(self, size: int = HELD) -> None:
        self._left = size

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Provide a function that reserves bytes until the end of the block.

        It raises ApiError 429 if other requests hold too many.
        """
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if size > self._left:
                raise ApiError(
                    429,
                    "the memory for request bodies is full: send this request again",
                    code="no_room_for_body",
                    headers=_RETRY,
                )
            held += size
            self._left -= size

        try:
            yield hold
        finally:
            self._left += held
