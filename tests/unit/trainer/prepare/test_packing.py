from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.prepare.packing import pack


@given(st.lists(st.integers(1, 20), max_size=60))
def test_every_row_is_in_one_sequence_and_none_overflows(lengths: list[int]) -> None:
    sequences = pack(lengths, 20)
    assert sorted(position for sequence in sequences for position in sequence) == list(range(len(lengths)))
    assert all(sum(lengths[position] for position in sequence) <= 20 for sequence in sequences)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_sequences_are_few(lengths: list[int]) -> None:
    assert len(pack(lengths, 20)) <= 11 / 9 * -(-sum(lengths) // 20) + max(1, sum(length > 10 for length in lengths))


def test_the_best_fitting_room_is_taken() -> None:
    assert pack([6, 5, 4, 3], 10) == [[0, 2], [1, 3]]
