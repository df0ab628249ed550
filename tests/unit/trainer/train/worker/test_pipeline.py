"""Micro-batches fit the rounds of the interleaved schedule."""

import pytest
import torch

from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.train.worker.batches import Batch
from driftloop_trainer.train.worker.pipeline import rounded


def batches(count: int) -> list[Batch]:
    return [Batch(torch.full((2, 3), n), torch.full((2, 2), n), torch.arange(2)) for n in range(count)]


@pytest.mark.parametrize(("count", "workers", "added"), [(4, 2, 0), (5, 2, 1), (7, 4, 0), (9, 4, 1), (1, 8, 0)])
def test_what_is_added_has_the_same_shape_and_no_target(count: int, workers: int, added: int) -> None:
    before = batches(count)
    found = rounded(before, workers)
    assert found[:count] == before
    assert len(found) == count + added
    for batch in found[count:]:
        assert torch.equal(batch.ids, before[-1].ids)
        assert (batch.targets == IGNORED).all()
