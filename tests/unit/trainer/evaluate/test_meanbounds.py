import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.evaluate.meanbounds import Sample, lower_bound, upper_bound


def alone(values: list[float], least: float = -1.0) -> float:
    """The lower bound of independent items."""
    return lower_bound(values, [str(i) for i in range(len(values))], least)


@pytest.mark.parametrize(("right", "items"), [(1, 1), (1, 2), (9, 10), (30, 60), (60, 60)])
def test_for_scores_of_0_and_1_it_is_clopper_and_pearsons(right: int, items: int) -> None:
    """At their bound, as many right answers or more have a probability of 5 %."""
    p = alone([1.0] * right + [0.0] * (items - right), least=0.0)
    more = sum(math.comb(items, k) * p**k * (1 - p) ** (items - k) for k in range(right, items + 1))
    assert more == pytest.approx(0.05, abs=1e-3)


def test_it_is_the_5_percent_quantile_of_the_mean_with_random_weights() -> None:
    rng = np.random.default_rng(2)
    for items in (3, 20, 200):
        values = rng.normal(0.1, 0.2, items).clip(-1, 1)
        weights = rng.dirichlet(np.ones(items + 1), size=40_000)
        drawn = weights @ np.append(values, -1.0)
        assert float(np.mean(drawn <= alone(list(values)))) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("items", [1, 59, 1000])
def test_of_items_that_do_not_differ_three_in_n_may_be_lost(items: int) -> None:
    assert alone([0.0] * items) == pytest.approx(-(1 - 0.05 ** (1 / items)), abs=2e-5)


def test_many_items_come_close_to_students_t() -> None:
    values = np.random.default_rng(3).normal(0, 0.2, 20_000).clip(-1, 1)
    usual = float(values.mean() - 1.645 * values.std() / math.sqrt(20_000))
    assert alone(list(values)) == pytest.approx(usual, abs=2e-4)


def test_copies_of_items_add_no_certainty() -> None:
    values = list(np.random.default_rng(4).normal(0, 0.3, 50).clip(-1, 1))
    clusters = [str(i) for i in range(50)]
    once = lower_bound(values, clusters, -1.0)
    assert lower_bound(values * 7, clusters * 7, -1.0) == pytest.approx(once, abs=2e-5)


def test_the_upper_bound_is_the_lower_bound_of_the_opposite() -> None:
    values = [0.3, -0.2, 0.9, 0.0]
    assert upper_bound(values, list("abcd"), 1.0) == -lower_bound([-v for v in values], list("abcd"), -1.0)


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 9)), min_size=1, max_size=60))
def test_the_bounds_hold_the_mean_and_stay_in_the_range(items: list[tuple[float, int]]) -> None:
    values, clusters = [value for value, _ in items], [str(cluster) for _, cluster in items]
    mean = math.fsum(values) / len(values)
    assert -1 <= lower_bound(values, clusters, -1.0) <= mean + 1e-9
    assert mean - 1e-9 <= upper_bound(values, clusters, 1.0) <= 1


def small_changes(rng: np.random.Generator, items: int) -> np.ndarray:
    return rng.normal(0, 0.1, items).clip(-1, 1) - 0.05


def rare_losses(rng: np.random.Generator, items: int) -> np.ndarray:
    return np.where(rng.random(items) < 0.05, -1.0, 0.0)


def rare_losses_among_noise(rng: np.random.Generator, items: int) -> np.ndarray:
    return np.where(rng.random(items) < 0.05, -1.0, rng.normal(0, 0.02, items))


@pytest.mark.parametrize("items", [30, 100])
@pytest.mark.parametrize("world", [small_changes, rare_losses, rare_losses_among_noise])
def test_a_true_loss_is_missed_in_at_most_one_of_twenty(
    world: Callable[[np.random.Generator, int], np.ndarray], items: int
) -> None:
    """With Student's t 12 % of the samples of 100 items missed rare losses. bench/score_errors.py has the table."""
    rng = np.random.default_rng(5)
    clusters = [str(i) for i in range(items)]
    missed = sum(Sample.of(list(world(rng, items)), clusters).shows_above(-0.05, -1.0) for _ in range(500))
    assert missed / 500 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 500)
