"""All bodies share one memory."""

import pytest

from driftloop_server.openai_api import ApiError
from driftloop_server.proxy.room import Room


def test_a_body_that_does_not_fit_is_refused_with_a_time_to_retry() -> None:
    room = Room(10)
    with room.holding() as first, room.holding() as second:
        first(6)
        second(4)
        with pytest.raises(ApiError, match="send this request again") as refused:
            second(1)
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "2"})


def test_held_bytes_are_free_again_after_any_end_of_a_request() -> None:
    room = Room(10)

    def fail(size: int, error: Exception) -> None:
        with room.holding() as hold:
            hold(size)
            raise error

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            fail(10, ZeroDivisionError())
        with pytest.raises(ApiError):
            fail(11, AssertionError())
    with room.holding() as hold:
        hold(10)
