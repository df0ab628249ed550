import pytest

from driftloop.api.base import SuiteSpec
from driftloop.contract.bounds import least_items, paired_difference, share_bounds


def suite(kind: str, **fields: float) -> SuiteSpec:
    return SuiteSpec.model_validate({"name": "s", "kind": kind, "items": "data"} | fields)


@pytest.mark.parametrize("delta", [0.5, 0.05, 0.01, 0.001])
def test_one_item_fewer_shows_no_loss_of_delta(delta: float) -> None:
    least = least_items(suite("retention", delta=delta))
    assert least is not None
    assert paired_difference(least, least, 0, 0, 0.0).detectable <= delta
    assert paired_difference(least - 1, least - 1, 0, 0, 0.0).detectable > delta


@pytest.mark.parametrize("minimum", [0.5, 0.9, 0.99])
def test_one_item_fewer_is_below_the_floor(minimum: float) -> None:
    least = least_items(suite("floor", minimum=minimum))
    assert least is not None
    assert share_bounds(least, least, least, 0.0)[0] >= minimum
    assert share_bounds(least - 1, least - 1, least - 1, 0.0)[0] < minimum


def test_a_version_that_must_be_better_needs_few_items_and_certainty_more_than_there_are() -> None:
    assert (least_items(suite("retention", delta=0.0)) or 99) < 10
    assert least_items(suite("floor", minimum=1.0)) is None
