"""The columns of joined matrices that workers exchange. test_exactness.py has the trainings."""

from itertools import accumulate

import pytest

from driftloop_trainer.train.worker.tensor import overlap


@pytest.mark.parametrize(("sizes", "workers"), [([12, 12], 4), ([16, 16], 2), ([8, 4, 4], 2), ([32, 8, 8], 8)])
def test_each_worker_gets_its_part_of_each_joined_matrix_in_order(sizes: list[int], workers: int) -> None:
    width = sum(sizes) // workers
    for worker in range(workers):
        received = [
            owner * width + column
            for owner in range(workers)
            for piece in overlap(sizes, workers, owner, worker)
            for column in range(piece.start, piece.stop)
        ]
        assert received == [
            column
            for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False)
            for column in range(start + worker * size // workers, start + (worker + 1) * size // workers)
        ]
