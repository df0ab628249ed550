"""Rounds of micro-batches are equal, and as few as possible are added for that."""

from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.interleaving import in_equal_rounds, rounds


@given(count=st.integers(1, 300), workers=st.integers(2, 16))
def test_rounds_have_equally_many_micro_batches_and_fewer_than_workers_are_added(count: int, workers: int) -> None:
    found = in_equal_rounds(count, workers)
    assert found % rounds(found, workers) == 0
    assert 0 <= found - count < workers
    assert all(fewer % rounds(fewer, workers) for fewer in range(count, found))
