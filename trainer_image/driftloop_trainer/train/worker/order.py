"""Which sequences each step trains on. Pure: a function of step, seed and data, whatever the number of workers.

The training cursor is the step alone, so a run may go on with another number of workers than it began with.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from driftloop.contract.course import Course

_POOL = (
    32  # batches whose rows are sorted by length together: enough to save most padding, little enough to stay random
)
Indices = npt.NDArray[np.int64]


class Order:
    """The order of a course: batches of like lengths, shuffled within each epoch."""

    def __init__(self, lengths: Indices, course: Course, seed: int) -> None:
        self._lengths = lengths
        self._course = course
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._arranged)  # a batch may end one epoch and begin the next

    def batch(self, step: int) -> Indices:
        """Sequences of the step, counted from 0. Raises IndexError beyond the last one."""
        rows, places = self._course.rows, self._course.step(step)
        parts = []
        place = places.start
        while place < places.stop:
            epoch, first = divmod(place, rows)
            last = min(rows, first + places.stop - place)
            parts.append(self._epoch(epoch)[first:last])
            place += last - first
        return np.concatenate(parts)

    def _arranged(self, epoch: int) -> Indices:
        """Every sequence once, in the order of the epoch's places.

        The first ones complete the batch that the epoch before began, the last ones begin the next epoch's: both are
        as they were drawn. What lies between are whole batches.
        """
        size, rows = self._course.batch, self._course.rows
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(rows)
        head = -epoch * rows % size
        whole = head + (rows - head) // size * size
        return np.concatenate([order[:head], self._batches(order[head:whole], random), order[whole:]])

    def _batches(self, order: Indices, random: np.random.Generator) -> Indices:
        """Batches of like lengths, one after the other: sorted within pools, then shuffled."""
        size = self._course.batch
        pools = [order[start : start + size * _POOL] for start in range(0, len(order), size * _POOL)]
        by_length = [rows[np.argsort(self._lengths[rows], kind="stable")] for rows in pools]
        batches = np.concatenate([order[:0], *by_length]).reshape(-1, size)
        return batches[random.permutation(len(batches))].reshape(-1)


def share(batch: Sequence[int], lengths: Indices, rank: int, world_size: int, micro_size: int) -> list[list[int]]:
    """This rank's microbatches of at most `micro_size` sequences; as many on every rank, the last ones may be empty.

    Dealt like cards in the order of length: every rank gets like work, since the slowest one sets the pace.
    """
    ordered = sorted((int(index) for index in batch), key=lambda index: (-int(lengths[index]), index))
    mine = ordered[rank::world_size]
    most = -(-len(ordered) // world_size)
    return [mine[start : start + micro_size] for start in range(0, most, micro_size)]
