"""Direct preference optimisation (`dpo`): the better answer of a pair becomes likelier, relative to the worse one.

Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, equation 7. A sequence is a pair: two segments, the chosen
answer and the rejected one, each after the same prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch.nn import functional

from driftloop_trainer.dataset import Dataset
from driftloop_trainer.train.worker.batches import Batch, padded
from driftloop_trainer.train.worker.loss import row_log_probabilities
from driftloop_trainer.train.worker.methods.method import Sums
from driftloop_trainer.train.worker.order import Indices


@dataclass(frozen=True, slots=True)
class Dpo:
    """The sigmoid loss of pairs, as a mean over the pairs. `reference`: see `log_ratios`, for every pair."""

    dataset: Dataset
    pad_id: int
    beta: float
    reference: torch.Tensor
    packed: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]] = ("accuracy", "margin")

    def batch(self, indices: Sequence[int]) -> Batch:
        """The pairs, each as two rows."""
        return replace(pair_rows(self.dataset, indices, self.pad_id), reference=self.reference[list(indices)])

    def step_sums(self, model: Any, batches: Sequence[Batch], count: int) -> Sums:
        """The same for every step."""
        return self.sums

    def sums(self, model: Any, batch: Batch) -> torch.Tensor:
        """The loss, the pairs whose chosen answer has the higher reward, and the differences of the rewards; (3,).

        The reward of an answer is `beta` times the logarithm of how much likelier it is than by the first weights.
        """
        assert batch.reference is not None
        margins = self.beta * (log_ratios(model, batch, len(batch.reference)) - batch.reference)
        losses = -functional.logsigmoid(margins)
        return torch.stack([losses.sum(), (margins > 0).sum(), margins.detach().sum()])

    def count(self, indices: Indices) -> int:
        """The number of pairs."""
        return len(indices)


def pair_rows(dataset: Dataset, indices: Sequence[int], pad_id: int) -> Batch:
    """The two rows of each pair, the chosen answer first; without pairs one row of padding."""
    return padded([row for index in indices for row in dataset.parts(index)], pad_id)


def log_ratios(model: Any, batch: Batch, pairs: int) -> torch.Tensor:
    """The log-probability of the chosen answer minus that of the rejected one, for each pair; float64, (pairs,)."""
    answers = row_log_probabilities(model, batch)[: 2 * pairs]
    return answers[0::2] - answers[1::2]
