"""Predict the next token: `sft` and `pretrain`. They differ in the labels that prepare wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from driftloop_trainer.dataset import Dataset
from driftloop_trainer.train.worker.batches import Batch, collate
from driftloop_trainer.train.worker.loss import loss_sum
from driftloop_trainer.train.worker.methods.method import Sums
from driftloop_trainer.train.worker.order import Indices


def token_sums(model: Any, batch: Batch) -> torch.Tensor:
    """The cross-entropy summed over the tokens that count, of shape (1,)."""
    return loss_sum(model, batch).unsqueeze(0)


@dataclass(frozen=True, slots=True)
class NextToken:
    """Cross-entropy, as a mean over the tokens that count."""

    dataset: Dataset
    pad_id: int
    measures: ClassVar[tuple[str, ...]] = ()

    @property
    def packed(self) -> bool:
        """Whether prepare packed the rows."""
        return self.dataset.packed

    def batch(self, indices: Sequence[int]) -> Batch:
        """The sequences, padded."""
        return collate(self.dataset, indices, self.pad_id)

    def step_sums(self, model: Any, batches: Sequence[Batch], count: int) -> Sums:
        """The cross-entropy, of shape (1,)."""
        return token_sums

    def count(self, indices: Indices) -> int:
        """The number of tokens that count."""
        return int(self.dataset.trained[indices].sum())
