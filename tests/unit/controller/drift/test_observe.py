"""What needs no Prometheus; the queries are tested in tests/control_plane/test_observe.py."""

import math
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.drift.observe import World, arms, eligible_samples, quantile, read_batch, selector
from driftloop.controller.runtime.prometheus import Prometheus

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def test_without_prometheus_nothing_is_known() -> None:
    async with aiohttp.ClientSession() as session:
        none = cast(World, SimpleNamespace(metrics=Prometheus(session, None), now=lambda: START))
        assert await read_batch(none, "ns", "desk", "v1", START, START + timedelta(seconds=60)) is None
        assert await eligible_samples(none, "ns", "desk", START - timedelta(hours=1)) is None
        assert await arms(none, "ns", "desk", ["r-v1"], START - timedelta(hours=1)) is None


def test_a_label_s_value_can_not_leave_its_quotes() -> None:
    assert selector(["m"], {"a": 'x"} or {b="\\\n'}) == '{__name__=~"m",a="x\\"} or {b=\\"\\\\\\n"}'


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


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile(0.95, {0.1: 1, 60.0: 2, math.inf: 100}) == 60.0
    assert quantile(0.5, {0.1: 0, 0.5: 10, math.inf: 10}) == pytest.approx(0.3)
    assert quantile(0.95, {}) is None
