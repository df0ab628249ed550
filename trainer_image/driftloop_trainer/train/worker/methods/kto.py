"""Kahneman-Tversky optimisation (`kto`): good answers become likelier, and bad ones less likely.

Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, equation 8. A sequence is two segments: a labelled answer, and
the answer of another row, each after the same prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from driftloop_trainer.dataset import Dataset
from driftloop_trainer.train.worker.batches import Batch, padded
from driftloop_trainer.train.worker.loss import row_log_probabilities
from driftloop_trainer.train.worker.methods.method import Sums
from driftloop_trainer.train.worker.methods.reference import without_gradient
from driftloop_trainer.train.worker.order import Indices


@dataclass(frozen=True, slots=True)
class Weights:
    """How much a row counts in the loss."""

    desirable: float = 1.0
    undesirable: float = 1.0


@dataclass(frozen=True, slots=True)
class Kto:
    """The loss of labelled answers, as a mean over the rows.

    `reference`: the first weights' log-probabilities of the answers and of those of other rows; (2, sequences).
    """

    dataset: Dataset
    pad_id: int
    beta: float
    weights: Weights
    reference: torch.Tensor
    packed: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]] = ("accuracy", "margin")

    def batch(self, indices: Sequence[int]) -> Batch:
        """The answers. `others` has those of other rows."""
        answers, others = (
            replace(segment_rows(self.dataset, indices, number, self.pad_id), reference=reference[list(indices)])
            for number, reference in enumerate(self.reference)
        )
        good = torch.from_numpy(self.dataset.good[list(indices)])
        return replace(answers, good=good, others=others)

    def step_sums(self, model: Any, batches: Sequence[Batch], count: int) -> Sums:
        """The loss of a step depends on how far the model has moved, which all its rows tell."""
        return partial(self.sums, moved=self.moved(model, batches, count))

    def moved(self, model: Any, batches: Sequence[Batch], count: int) -> torch.Tensor:
        """How much likelier the answers of other rows are than by the first weights, at least 0; a scalar.

        It is the logarithm, as a mean over the rows of a step on all ranks. Every rank calls it.
        """
        summed = self.reference.new_zeros((), device=batches[0].ids.device)
        with without_gradient(model):
            for batch in batches:
                assert batch.others is not None
                summed += log_ratios(model, batch.others).sum()
        dist.all_reduce(summed)
        return (summed / count).clamp(min=0)

    def sums(self, model: Any, batch: Batch, moved: torch.Tensor) -> torch.Tensor:
        """The loss, the rows whose answer is on the right side of `moved`, and their distances from it; (3,).

        A distance is `beta` times the logarithm of how much likelier a good answer has become than `moved`, or less
        likely a bad one.
        """
        assert batch.good is not None
        good = batch.good.to(torch.float64)
        weights = self.weights.desirable * good + self.weights.undesirable * (1 - good)
        margins = self.beta * (2 * good - 1) * (log_ratios(model, batch) - moved)
        losses = weights * torch.sigmoid(-margins)
        return torch.stack([losses.sum(), (margins > 0).sum(), margins.detach().sum()])

    def count(self, indices: Indices) -> int:
        """The number of rows."""
        return len(indices)


def segment_rows(dataset: Dataset, indices: Sequence[int], number: int, pad_id: int) -> Batch:
    """The segments `number` of two of these sequences; without sequences one row of padding."""
    return padded([dataset.parts(index)[number] for index in indices], pad_id)


def log_ratios(model: Any, batch: Batch) -> torch.Tensor:
    """The logarithm of how much likelier each answer is than by the first weights; float64, (sequences,)."""
    assert batch.reference is not None
    return row_log_probabilities(model, batch)[: len(batch.reference)] - batch.reference
