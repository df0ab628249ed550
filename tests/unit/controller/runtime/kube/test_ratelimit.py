"""The token bucket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.runtime.kube.ratelimit import TokenBucket


@given(st.integers(1, 100), st.integers(1, 20), st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_never_more_than_the_burst_and_the_rate(rate: int, burst: int, pauses: list[float]) -> None:
    now = 0.0
    bucket = TokenBucket(rate, burst, clock=lambda: now)
    starts = []
    for pause in pauses:
        now += pause
        starts.append(now + bucket.reserve())
    for index, start in enumerate(starts):
        inside = sum(1 for other in starts[: index + 1] if other >= start - 1)
        assert inside <= burst + rate + 1


def test_a_burst_is_free_and_what_follows_waits_in_line() -> None:
    bucket = TokenBucket(10, 2, clock=lambda: 0.0)
    assert [bucket.reserve() for _ in range(4)] == pytest.approx([0, 0, 0.1, 0.2])


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="rate must be above 0"):
        TokenBucket(0, 1)
