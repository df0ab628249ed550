from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.train.worker.sharding import units

SIZES = st.lists(st.integers(1, 100), max_size=30)


@given(SIZES, st.integers(1, 300))
def test_units_are_neighbours_in_order_and_large_enough(sizes: list[int], least: int) -> None:
    found = units(sizes, least)
    flat = [number for unit in found for number in unit]
    assert flat == list(range(len(flat)))
    assert all(sum(sizes[number] for number in unit) >= least for unit in found)
    assert sum(sizes[len(flat) :]) < least


def test_large_layers_are_units_of_their_own_and_a_small_model_is_one_unit() -> None:
    assert units([50, 50, 50], 50) == [[0], [1], [2]]
    assert units([5, 5, 5], 50) == []
