import math
from typing import Any

import pytest

from driftloop.api.suite import SuiteSpec
from driftloop.contract.bounds import (
    graded_difference,
    items_needed,
    least_items,
    paired_difference,
    planned_items,
    share_bounds,
    smallest_loss,
)
from driftloop.contract.looks import alpha_of
from driftloop.contract.student import t_quantile


def suite(kind: str, **fields: Any) -> SuiteSpec:
    return SuiteSpec.model_validate({"name": "s", "kind": kind, "items": "data"} | fields)


@pytest.mark.parametrize("look", [1, 2, 9])
@pytest.mark.parametrize("delta", [0.5, 0.05, 0.01, 0.001])
def test_one_item_fewer_shows_no_loss_of_delta(delta: float, look: int) -> None:
    least = least_items(suite("retention", delta=delta), look)
    assert least is not None
    assert paired_difference(least, least, 0, 0, 0.0, alpha_of(look)).excludes_loss(delta)
    assert not paired_difference(least - 1, least - 1, 0, 0, 0.0, alpha_of(look)).excludes_loss(delta)


@pytest.mark.parametrize("look", [1, 2, 9])
@pytest.mark.parametrize("gain", [0.0, 0.2, 0.9])
def test_one_item_fewer_shows_no_gain(gain: float, look: int) -> None:
    least = least_items(suite("target", min_gain=gain), look)
    assert least is not None
    assert paired_difference(least, least, least, 0, 0.0, alpha_of(look)).lower > gain
    assert paired_difference(least - 1, least - 1, least - 1, 0, 0.0, alpha_of(look)).lower <= gain


@pytest.mark.parametrize("look", [1, 2, 9])
@pytest.mark.parametrize("minimum", [0.5, 0.9, 0.99])
def test_one_item_fewer_is_below_the_floor(minimum: float, look: int) -> None:
    least = least_items(suite("floor", minimum=minimum), look)
    assert least is not None
    assert share_bounds(least, least, least, 0.0, alpha_of(look))[0] >= minimum
    assert share_bounds(least - 1, least - 1, least - 1, 0.0, alpha_of(look))[0] < minimum


GRADED = {"metric": {"type": "chrf"}}


@pytest.mark.parametrize(
    ("kind", "fields", "least"),
    [
        ("retention", {"delta": 0.05}, 69),  # 0.95 ** 69 < 0.0304
        ("retention", {"delta": 0.0}, 6),
        ("target", {"min_gain": 0.0}, 6),  # 0.5 ** 6 < 0.0304
        ("target", {"min_gain": 0.5}, 13),
        ("floor", {"minimum": 0.9}, 34),
    ],
)
def test_scores_between_0_and_1_need_as_many_items_as_shares_by_clopper_and_pearson(
    kind: str, fields: dict[str, float], least: int
) -> None:
    assert least_items(suite(kind, **fields, **GRADED)) == least


def test_the_difference_of_scores_shows_what_its_error_and_its_number_of_items_allow() -> None:
    found = graded_difference(-0.01, 400, 0.01, (-0.03, 0.01))
    assert (found.value, found.lower, found.upper) == (-0.01, -0.03, 0.01)
    assert found.detectable == pytest.approx((1.6487 + 0.8416) * 0.01, abs=1e-5)
    assert found.excludes_loss(0.05)
    assert graded_difference(0.0, 100, 0.0, (0.0, 0.0)).detectable == pytest.approx(1 - 0.05 ** (1 / 100))
    assert not graded_difference(0.0, 50, 0.0, (-0.06, 0.06)).excludes_loss(0.05)


def test_a_version_that_must_be_better_needs_few_items_and_certainty_more_than_there_are() -> None:
    assert (least_items(suite("retention", delta=0.0)) or 99) < 10
    assert least_items(suite("floor", minimum=1.0)) is None
    assert least_items(suite("target", min_gain=1.0)) is None


def test_one_cluster_shows_nothing() -> None:
    found = paired_difference(1000, 1, 0, 0, 0.0)
    assert (found.lower, found.upper, found.detectable) == (-1.0, 1.0, math.inf)


@pytest.mark.parametrize(("items", "gained", "lost"), [(50, 0, 0), (200, 10, 14), (2000, 300, 90)])
def test_the_bounds_are_where_the_score_test_turns(items: int, gained: int, lost: int) -> None:
    """Tango's statistic with half an item taken for continuity, written out from the paper."""
    found = paired_difference(items, items, gained, lost, 0.0)
    for bound, up, down in ((found.lower, gained, lost), (-found.upper, lost, gained)):
        a = 2 * items
        b = -up - down + (2 * items - up + down) * bound
        c = -down * bound * (1 - bound)
        share = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
        score = (up - down - 0.5 - items * bound) / math.sqrt(items * (2 * share + bound * (1 - bound)))
        assert score == pytest.approx(t_quantile(items - 1), abs=1e-4)


def pass_rate(items: int, delta: float, gaining: float, look: int) -> float:
    """The exact chance that a retention gate passes: loses `delta` net, while it gains `gaining`, of its items."""
    losing = gaining + delta
    total = 0.0
    for lost in likely(items, losing):
        for gained in likely(items - lost, gaining / (1 - losing)):
            if paired_difference(items, items, gained, lost, 0.0, alpha_of(look)).excludes_loss(delta):
                total += binomial(items, lost, losing) * binomial(items - lost, gained, gaining / (1 - losing))
    return total


def likely(n: int, p: float) -> range:
    spread = 5 * math.sqrt(n * p * (1 - p)) + 5
    return range(max(0, int(n * p - spread)), min(n, int(n * p + spread)) + 1)


def binomial(n: int, k: int, p: float) -> float:
    if p == 0:
        return float(k == 0)
    logarithm = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(logarithm + k * math.log(p) + (n - k) * math.log1p(-p))


@pytest.mark.parametrize("look", [1, 3])
@pytest.mark.parametrize("items", [100, 200, 400])
@pytest.mark.parametrize("gaining", [0.0, 0.05])
def test_a_true_loss_of_delta_passes_no_more_often_than_the_look_may_err(items: int, gaining: float, look: int) -> None:
    """11.8 % of 100 items passed with a normal quantile, and 5 %. bench/gate_errors.py has the whole table."""
    assert pass_rate(items, 0.05, gaining, look) <= alpha_of(look)


def test_enough_items_let_an_equal_version_pass() -> None:
    shown = [paired_difference(1000, 1000, n, n, 0.0).excludes_loss(0.05) for n in (0, 20, 50, 100)]
    assert shown == [True, True, True, True]


@pytest.mark.parametrize(("delta", "look"), [(0.1, 1), (0.05, 1), (0.05, 3)])
def test_with_the_planned_items_an_equal_version_passes_in_four_of_five(delta: float, look: int) -> None:
    """A tenth of its answers differ. Exact, for independent items."""
    items = planned_items(delta, look) or 0
    passing = sum(
        binomial(items, lost, 0.05) * binomial(items - lost, gained, 0.05 / 0.95)
        for lost in likely(items, 0.05)
        for gained in likely(items - lost, 0.05 / 0.95)
        if paired_difference(items, items, gained, lost, 0.0, alpha_of(look)).excludes_loss(delta)
    )
    assert passing == pytest.approx(0.8, abs=0.02)
    assert smallest_loss(items, look) < delta <= smallest_loss(items - 1, look)


def test_no_number_of_items_shows_that_nothing_at_all_is_lost() -> None:
    assert planned_items(0.0) is None


def test_the_items_of_a_suite_are_enough_few_or_too_few() -> None:
    needed = items_needed(suite("retention", delta=0.05))
    assert (needed.least, needed.planned) == (88, 340)
    assert [needed.enough(items) for items in (None, 87, 88, 339, 340)] == ["Unknown", "No", "Rarely", "Rarely", "Yes"]
    assert (items_needed(suite("retention", delta=0.05), look=2).least or 0) == 135


def test_what_an_equal_version_needs_is_not_guessed_for_other_suites() -> None:
    for each in (suite("floor"), suite("target"), suite("retention", **GRADED)):
        needed = items_needed(each)
        assert needed.planned is None
        assert needed.least is not None
        assert [needed.enough(items) for items in (None, needed.least - 1, needed.least)] == [
            "Unknown",
            "No",
            "Unknown",
        ]
    assert items_needed(suite("floor", minimum=1.0)).enough(10**6) == "No"


def test_a_late_look_with_the_anchor_may_need_more_items_than_the_stable_version() -> None:
    total = suite("retention", delta=0.05, total_delta=0.06)
    assert items_needed(total, 1, 1) == items_needed(suite("retention", delta=0.05))
    late = items_needed(total, 1, 40)
    assert late.planned == items_needed(suite("retention", delta=0.06), 40).planned
    assert (late.least or 0) > 88
