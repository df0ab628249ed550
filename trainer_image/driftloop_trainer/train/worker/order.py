"""Which sequences each step trains on. Pure: it depends on step, seed and data, not on the number of workers.

The training cursor is the step alone, so a run can resume with another number of workers.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from driftloop.contract.course import Course

# Batches whose rows are sorted by length together: enough to avoid most padding, few enough to stay random.
_POOL = 32
Indices = npt.NDArray[np.int64]


class Order:
    """The order of a course: batches of similar lengths, shuffled within each epoch."""

    def __init__(self, lengths: Indices, course: Course, seed: int) -> None:
        self._lengths = lengths
        self._course = course
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._arranged)  # a batch may end one epoch and begin the next

    def batch(self, step: int) -> Indices:
        """The sequences of a step, which is counted from 0. Raises IndexError after the last step."""
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

        The first sequences complete the last batch of the previous epoch, and the last ones begin the first batch of
        the next epoch. Both are in random order. Between them are complete batches.
        """
        size, rows = self._course.batch, self._course.rows
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(rows)
        head = -epoch * rows % size
        whole = head + (rows - head) // size * size
        return np.concatenate([order[:head], self._batches(order[head:whole], random), order[whole:]])

    def _batches(self, order: Indices, random: np.random.Generator) -> Indices:
        """Batches of similar lengths, concatenated. Rows are sorted within pools, then batches are shuffled."""
        size = self._course.batch
        pools = [order[start : start + size * _POOL] for start in range(0, len(order), size * _POOL)]
        by_length = [rows[np.argsort(self._lengths[rows], kind="stable")] for rows in pools]
        batches = np.concatenate([order[:0], *by_length]).reshape(-1, size)
        return batches[random.permutation(len(batches))].reshape(-1)


def share(batch: Sequence[int], lengths: Indices, rank: int, world_size: int, micro_size: int) -> list[list[int]]:
    """This rank's microbatches of at most `micro_size` sequences. All ranks have the same number; some may be empty.

    The sequences are dealt like cards, sorted by length, so that all ranks have similar work.
    """
    ordered = sorted((int(index) for index in batch), key=lambda index: (-int(lengths[index]), index))
    mine = ordered[rank::world_size]
    most = -(-len(ordered) // world_size)
    return [mine[start : start + micro_size] for start in range(0, most, micro_size)]
