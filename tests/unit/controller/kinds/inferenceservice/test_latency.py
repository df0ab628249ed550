"""Two histograms are compared by p95."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.kinds.inferenceservice.latency import p95, quantile, slow_answers
from unit.controller.kinds.inferenceservice.builders import took


@given(st.lists(st.tuples(st.floats(0.001, 100), st.integers(0, 100)), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_a_quantile_lies_within_the_buckets_and_rises(found: list[tuple[float, int]], share: float) -> None:
    total, cumulative = 0, {}
    for upper, count in sorted(dict(found).items()):
        total += count
        cumulative[upper] = float(total)
    cumulative[math.inf] = float(total)
    value = quantile(share, cumulative)
    if total == 0:
        assert value is None
    else:
        assert value is not None
        assert 0 <= value <= max(dict(found))
        higher = quantile(min(share + 0.01, 1.0), cumulative)
        assert higher is not None
        assert higher >= value


def test_a_quantile_beyond_the_last_bound_is_beyond_all() -> None:
    """It was the last bound: two arms of which both took longer looked alike."""
    assert quantile(0.95, {0.1: 1, 60.0: 2, math.inf: 100}) == math.inf
    assert quantile(0.5, {0.1: 0, 0.5: 10, math.inf: 10}) == pytest.approx(0.3)
    assert p95({}) is None


@pytest.mark.parametrize(
    ("candidate", "late"),
    [
        (took(1.4, 300), 0),
        (took(2, 300), 300),
        ({1.0: 288, 3.0: 300}, 9),  # linear within a bucket
        ({1.0: 100, math.inf: 300}, 200),
    ],
)
def test_slow_answers_are_counted_against_stable_s_twentieth(candidate: dict[float, float], late: float) -> None:
    found = slow_answers(took(1, 300), candidate, ratio=1.5)
    assert found is not None
    assert found.limit == pytest.approx(1.5, rel=0.02)
    assert [found.stable.bad, found.candidate.bad] == pytest.approx([15, late], abs=0.1)
    assert found.stable.total == found.candidate.total == 300


@pytest.mark.parametrize(
    ("stable", "candidate"),
    [
        ({1.0: 100, math.inf: 300}, {1.0: 100, math.inf: 300}),
        ({}, took(1, 300)),
        (took(1, 300), {}),
        (took(1, 300), {1.0: 0.0, math.inf: 0.0}),
    ],
)
def test_an_arm_without_a_p95_cannot_be_compared(stable: dict[float, float], candidate: dict[float, float]) -> None:
    assert slow_answers(stable, candidate, ratio=1.5) is None
