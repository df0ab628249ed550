import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.drift.normal import OUTLIER, USUAL_SPREAD, Counts, Normal, Spread

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
EDGES = [-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816]

blocks = st.lists(st.lists(st.integers(0, 1000), min_size=10, max_size=10).map(tuple), max_size=60)


def block(rng: random.Random, requests: int, mean: float = 0.0, copies: int = 1) -> Counts:
    """The bins of so many requests, each of which is there `copies` times."""
    counts = [0] * 10
    for _ in range(requests // copies):
        value = rng.gauss(mean, 1)
        counts[sum(value > edge for edge in EDGES)] += copies
    return tuple(counts)


def lived(days: int, requests: int = 200, swing: float = 0.0, weekend: float = 0.0, copies: int = 1) -> Normal:
    """After whole days of hourly blocks; the afternoon lies `swing` above the mean, and the morning below it."""
    rng, normal = random.Random(1), Normal()
    for day in range(days):
        for hour in range(24):
            when = MONDAY + timedelta(days=day, hours=hour)
            mean = (swing if hour >= 12 else -swing) + weekend * (when.weekday() >= 5)
            normal = normal.with_block(block(rng, requests, mean, copies), when)
        normal = normal.with_day(MONDAY + timedelta(days=day), whole=True)
    return normal


def test_an_hour_is_compared_with_the_same_hour_of_other_days() -> None:
    normal = lived(10, swing=0.3)
    assert normal.at(MONDAY + timedelta(hours=3)).mean == pytest.approx(-0.3, abs=0.08)
    assert normal.at(MONDAY + timedelta(hours=15)).mean == pytest.approx(0.3, abs=0.08)
    assert normal.spread.design_effect < 2


def test_hours_that_differ_by_chance_are_all_expected_to_be_alike() -> None:
    normal = lived(3, requests=40)
    assert all(abs(normal.at(MONDAY + timedelta(hours=hour)).mean) < 0.07 for hour in range(24))


def test_a_weekend_that_was_seen_is_expected_to_come_again() -> None:
    normal = lived(14, weekend=0.3)
    saturday, monday = (normal.at(MONDAY + timedelta(days=day, hours=9)) for day in (19, 14))
    assert saturday.mean - monday.mean == pytest.approx(0.3, abs=0.08)


def test_a_day_of_the_week_that_was_never_seen_may_differ() -> None:
    normal = lived(5)
    friday, saturday = (normal.at(MONDAY + timedelta(days=day, hours=9)).error for day in (4, 5))
    assert friday is not None
    assert saturday is not None
    assert friday < 0.035 < saturday


def test_days_that_differ_make_an_unknown_day_less_certain() -> None:
    calm, moving = (lived(6, weekend=weekend).at(MONDAY + timedelta(days=6)).error for weekend in (0.0, 0.4))
    assert calm is not None
    assert moving is not None
    assert moving > calm


@pytest.mark.parametrize("copies", [1, 5])
def test_requests_that_come_in_copies_count_as_one(copies: int) -> None:
    assert lived(14, copies=copies).spread.design_effect == pytest.approx(copies, rel=0.3)


def test_a_part_of_a_day_tells_nothing_about_its_day_of_the_week() -> None:
    normal = Normal().with_block((10,) * 10, MONDAY).with_day(MONDAY, whole=False)
    assert not any(normal.weekdays)
    assert normal.today == ()
    assert normal.rows == 100


@given(blocks)
def test_cells_add_up_to_the_baseline(found: list[Counts]) -> None:
    normal = Normal()
    for number, counts in enumerate(found):
        normal = normal.with_block(counts, MONDAY + timedelta(hours=number))
    assert normal.rows == sum(map(sum, found)) == sum(map(sum, normal.hours))


@given(blocks)
def test_what_is_expected_is_always_a_number_within_the_scores(found: list[Counts]) -> None:
    normal = Normal()
    for number, counts in enumerate(found):
        normal = normal.with_block(counts, MONDAY + timedelta(hours=7 * number))
        reference = normal.at(MONDAY + timedelta(hours=number))
        if normal.rows:
            assert reference.error is not None
            assert reference.error > 0
            assert abs(reference.mean) < 50
            assert reference.together >= 1


def test_a_block_with_other_bins_is_not_learned() -> None:
    normal = Normal().with_block((5, 5), MONDAY)
    assert normal.with_block((1, 2, 3), MONDAY) == normal
    assert normal.with_block((0, 0), MONDAY) == normal


@given(st.lists(st.floats(0, 1e9), max_size=600))
def test_a_design_effect_is_at_least_1_and_one_block_raises_it_little(squares: list[float]) -> None:
    spread = Spread()
    assert spread.design_effect == USUAL_SPREAD
    for square in squares:
        after = spread.with_block(square)
        assert 1 <= after.design_effect <= spread.design_effect * (1 + OUTLIER / 12)
        spread = after
    assert spread.blocks <= 336
