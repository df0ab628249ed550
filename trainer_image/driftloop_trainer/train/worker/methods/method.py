"""What the training loop needs of a method."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from driftloop_trainer.dataset import Dataset
from driftloop_trainer.train.worker.batches import Batch
from driftloop_trainer.train.worker.order import Indices

Sums = Callable[[Any, Batch], torch.Tensor]  # see Method.step_sums


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

    def step_sums(self, model: Any, batches: Sequence[Batch], count: int) -> Sums:
        """What computes the loss and each measure of a micro-batch of a step, with its weights before the step.

        It returns their sums over the batch, of shape (1 + measures,). Only the loss has a gradient. `batches`: this
        rank's. `count`: of the step, see below. Every rank calls it.
        """

    def count(self, indices: Indices) -> int:
        """What the sums of a step with these sequences are divided by. It doesn't depend on how they are split."""
