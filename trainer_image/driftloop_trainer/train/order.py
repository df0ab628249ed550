"""Which sequences each step trains on. Pure: a function of step, seed and data, whatever the number of workers.

The training cursor is the step alone, so a run may go on with another number of workers than it began with.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_POOL = (
    32  # batches whose rows are sorted by length together: enough to save most padding, little enough to stay random
)
Indices = npt.NDArray[np.int64]


class Order:
    """The order of training: every epoch sees every sequence once, in batches of like lengths, batches shuffled."""

    def __init__(self, lengths: Indices, batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self.steps_per_epoch = -(-len(lengths) // batch_size)
        self._epoch = lru_cache(maxsize=1)(self._shuffled)

    def batch(self, step: int) -> Indices:
        """Sequences of the step, counted from 0; the last batch of an epoch may be smaller."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[position]

    def _shuffled(self, epoch: int) -> list[Indices]:
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._lengths))
        pool = self._batch_size * _POOL
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        by_length = np.concatenate([rows[np.argsort(self._lengths[rows], kind="stable")] for rows in pools])
        batches = [by_length[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
        return [batches[position] for position in random.permutation(len(batches))]


def share(batch: Sequence[int], lengths: Indices, rank: int, world_size: int, micro_size: int) -> list[list[int]]:
    """This rank's microbatches of at most `micro_size` sequences; as many on every rank, the last ones may be empty.

    Dealt like cards in the order of length: every rank gets like work, since the slowest one sets the pace.
    """
    ordered = sorted((int(index) for index in batch), key=lambda index: (-int(lengths[index]), index))
    mine = ordered[rank::world_size]
    most = -(-len(ordered) // world_size)
    return [mine[start : start + micro_size] for start in range(0, most, micro_size)]
