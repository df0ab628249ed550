import math

import numpy as np
import pytest
from numpy.typing import NDArray

from driftloop_trainer.charts.chart import chart, mean, running_mean, thin, ticks
from unit.trainer.charts.test_canvas import pixels

NAN = math.nan
BLUE = (31, 97, 166)


def blue(png: bytes) -> NDArray[np.intp]:
    """Rows and columns of the pixels of a curve."""
    return np.argwhere((np.abs(pixels(png).astype(int) - BLUE) < 60).all(2))


def test_each_series_with_a_value_has_a_panel() -> None:
    line = [(1.0, 1.0), (2.0, 3.0)]
    one, two, three = (pixels(chart(dict.fromkeys(names, line))).shape[:2] for names in ("a", "ab", "abc"))
    assert (two[0], two[1]) == (one[0], 2 * one[1])
    assert (three[0], three[1]) == (2 * one[0], 2 * one[1])
    assert pixels(chart({"a": line, "unknown": [(1.0, NAN)]})).shape[:2] == one


def test_a_curve_falls_from_the_upper_left_to_the_lower_right() -> None:
    drawn = blue(chart({"loss": [(step, 10.0 - step) for step in range(10)]}))
    first, last = drawn[drawn[:, 1].argmin()], drawn[drawn[:, 1].argmax()]
    assert first[0] < last[0]


def test_a_value_that_is_not_finite_is_a_gap() -> None:
    whole = [(float(step), 1.0) for step in range(11)]
    columns = set(blue(chart({"loss": whole}))[:, 1])
    broken = set(blue(chart({"loss": [*whole[:4], (4.0, NAN), (5.0, math.inf), *whole[6:]]}))[:, 1])
    assert broken < columns
    assert len(columns) - len(broken) > 50


@pytest.mark.parametrize("points", [[(7.0, 0.0)], [(1.0, 5.0), (2.0, 5.0)], [(1.0, 1e-300), (2.0, 1e300)], []])
def test_series_without_a_width_or_a_height_are_drawn_too(points: list[tuple[float, float]]) -> None:
    assert len(blue(chart({"loss": points}))) > 0 or not points


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.7), (1e-6, 2e-5), (99_999, 100_001), (0, 1e12)])
def test_ticks_are_a_few_round_numbers_in_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low <= tick <= high for tick in found)


def test_points_are_thinned_to_means_and_not_finite_ones_are_left_out_of_a_mean() -> None:
    assert thin([(1, 1.0), (2, 3.0), (3, NAN), (4, 5.0), (5, 7.0)], 3) == [(2, 2.0), (4, 5.0), (5, 7.0)]
    assert running_mean([(1, 1.0), (2, NAN), (3, 3.0)], 2) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert math.isnan(mean([NAN, math.inf]))
