import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.drift.pace import MEMORY, Pace, advance, expected_requests, independent_limit

rates = st.floats(0, 1000)


@given(rates, st.lists(st.floats(0.1, 600), min_size=1, max_size=20))
def test_a_steady_pace_is_found_whatever_the_windows(rate: float, windows: list[float]) -> None:
    pace = Pace()
    for seconds in windows:
        pace = advance(pace, rate * seconds, seconds)
    assert pace.rate == pytest.approx(rate)


@given(rates, st.floats(0, MEMORY), st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_pace_is_never_negative_and_its_memory_is_bounded(
    rate: float, seen: float, requests: float, seconds: float
) -> None:
    pace = advance(Pace(rate, seen), requests, seconds)
    assert pace.rate >= 0
    assert 0 <= pace.seconds <= MEMORY


def test_the_time_before_the_first_request_does_not_slow_the_pace() -> None:
    pace = Pace()
    for _ in range(100):
        pace = advance(pace, 0, 10)
    assert expected_requests(pace, 50, 10) == 50
    assert advance(pace, 50, 10).rate == 5


@given(st.floats(0, 1e6))
def test_the_expected_requests_and_a_single_one_count_as_independent(expected: float) -> None:
    assert independent_limit(expected) >= max(1, expected)
