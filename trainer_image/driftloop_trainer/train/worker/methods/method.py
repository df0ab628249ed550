"""What the training loop needs of a method."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from driftloop_trainer.dataset import Dataset
from driftloop_trainer.train.worker.batches import Batch
from driftloop_trainer.train.worker.order import Indices

Sums = Callable[[Any, Batch], torch.Tensor]  # see Method.sums


class Method(Protocol):
    """A loss over the sequences of a data set, and what is reported beside it."""

    @property
    def dataset(self) -> Dataset:
        """The sequences. A step has a number of them."""

    @property
    def packed(self) -> bool:
        """Whether several rows lie one after another in a row of a batch."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures: kinds of the reward (see Progress)."""

    def batch(self, indices: Sequence[int]) -> Batch:
        """The micro-batch of these sequences on the CPU. Without sequences it has a loss of 0."""

    def sums(self, model: Any, batch: Batch) -> torch.Tensor:
        """The loss and each measure, summed over the batch, of shape (1 + measures,). Only the loss has a gradient."""

    def count(self, indices: Indices) -> int:
        """What the sums of a step with these sequences are divided by. It doesn't depend on how they are split."""
