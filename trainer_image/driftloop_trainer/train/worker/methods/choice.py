"""The method that the spec names."""

from collections.abc import Sequence
from functools import partial
from typing import Any, assert_never

import torch

from driftloop.api.finetunejob import TrainingSpec
from driftloop_trainer.dataset import Dataset
from driftloop_trainer.train.run import Rows, Run
from driftloop_trainer.train.worker.loss import row_log_probabilities
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.dpo import Dpo, log_ratios, pair_rows
from driftloop_trainer.train.worker.methods.kto import Kto, Weights, segment_rows
from driftloop_trainer.train.worker.methods.method import Method
from driftloop_trainer.train.worker.methods.nexttoken import NextToken
from driftloop_trainer.train.worker.methods.reference import kept_or, over_all


def method_of(
    training: TrainingSpec,
    dataset: Dataset,
    pad_id: int,
    *,
    model: Any,
    run: Run,
    mesh: Mesh,
    micro_size: int,
    rows: Rows = "training",
) -> Method:
    """The method of `training` for a data set. Every rank calls it, before `model` has other weights than the first.

    `micro_size`: maximum sequences per forward pass. `rows`: what the data set has. Raises StageFailure on every rank.
    """
    match training.method:
        case "sft" | "pretrain":
            return NextToken(dataset, pad_id)
        case "dpo":
            device = next(model.parameters()).device

            def ratios(indices: Sequence[int]) -> torch.Tensor:
                return log_ratios(model, pair_rows(dataset, indices, pad_id).to(device), len(indices))

            reference = kept_or(run, lambda: over_all(model, dataset.lengths, ratios, mesh, micro_size), rows)
            return Dpo(dataset, pad_id, training.beta, reference)
        case "kto":
            weights = Weights(training.desirable_weight, training.undesirable_weight)
            device = next(model.parameters()).device

            def log_probabilities(number: int, indices: Sequence[int]) -> torch.Tensor:
                batch = segment_rows(dataset, indices, number, pad_id).to(device)
                return row_log_probabilities(model, batch)[: len(indices)]

            def of_both() -> torch.Tensor:
                segments = [partial(log_probabilities, number) for number in range(2)]
                return torch.cat([over_all(model, dataset.lengths, segment, mesh, micro_size) for segment in segments])

            return Kto(dataset, pad_id, training.beta, weights, kept_or(run, of_both, rows).view(2, -1))
        case never:
            assert_never(never)
