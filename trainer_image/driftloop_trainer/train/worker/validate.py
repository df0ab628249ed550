"""The loss on the rows that are set aside, on any grid of workers, and the weights for which it was lowest."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from driftloop.api.finetunejob import Validation
from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.run import Checkpoint, Run
from driftloop_trainer.train.validation import Validated
from driftloop_trainer.train.worker.checkpoint import causes, from_rank_0, is_damaged, load_weights
from driftloop_trainer.train.worker.context import part
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.method import Method
from driftloop_trainer.train.worker.methods.reference import without_gradient
from driftloop_trainer.train.worker.order import share
from driftloop_trainer.train.worker.pipeline import Pipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Validator:
    """When to compute the loss of `method`'s rows, and how. `micro_size`: maximum sequences per forward pass."""

    settings: Validation
    method: Method
    micro_size: int
    device: torch.device
    mesh: Mesh

    def is_due(self, step: int, total_steps: int, validated: Validated) -> bool:
        """Whether to validate after `step` steps, which were not validated yet."""
        return step > validated.step and (step % self.settings.every_steps == 0 or step == total_steps)

    def is_over(self, validated: Validated) -> bool:
        """Whether to stop the training, as the loss has not fallen for too long."""
        return self.settings.patience is not None and validated.worse >= self.settings.patience

    def loss(self, model: Any, passed: Callable[[], None] = lambda: None) -> float:
        """The mean loss of all rows, without dropout, whatever their split. Every rank calls it, and gets the same.

        They are computed as one step would be. `model`: as `staged` returns it. No more logits exist at a time than in
        training. `passed` is called when a forward pass has been computed.
        """
        method, mesh = self.method, self.mesh
        lengths = method.dataset.lengths
        shares = share(range(len(lengths)), lengths, mesh.data_rank, mesh.data_size, self.micro_size)
        collated = [method.batch(indices) for indices in shares]
        parts = [part(batch, mesh.context) for batch in collated] if mesh.context else collated
        batches = [batch.to(self.device) for batch in parts]
        count = max(1, method.count(np.arange(len(lengths))))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with without_gradient(model):
            sums = method.step_sums(model, batches, count)
            for batch in batches:
                total += (model.sums(sums, batch) if isinstance(model, Pipeline) else sums(model, batch))[0]
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)  # else the last pass would seem to take as long as all
                passed()
        total /= mesh.tensor_size
        dist.all_reduce(total)
        return float(total.item() / count)


def use_best(run: Run, model: Any, step: int, validated: Validated) -> int:
    """Give `model` the weights with the lowest validation loss; every rank calls it. Returns the step they are from.

    `step`: that of its present weights, which stay if no better checkpoint is left. Raises StageFailure on every rank.
    A checkpoint that can't be loaded is deleted then, as half of its weights may be in the model: the next start goes
    on from the last checkpoint, and comes here again without it.
    """
    if validated.best_step in (0, step):
        return step
    present = validated.loss if validated.step == step else None
    better = [entry for entry in from_rank_0(partial(_best_checkpoints, run)) if _is_lower(entry.own_loss, present)]
    if not better:
        log.warning(
            "the checkpoint of step %d, the best one, was not written: the last weights are used", validated.best_step
        )
        return step
    best = better[0]
    try:
        load_weights(best, model)
    except CheckpointException as error:
        if is_damaged(error):
            from_rank_0(partial(run.drop, best))
            raise StageFailure(StageReason.CHECKPOINT_UNREADABLE, f"{best.uri}: {causes(error)}", EXIT_RETRY) from error
        raise StageFailure(StageReason.STORAGE_UNREADABLE, causes(error), EXIT_RETRY) from error
    return best.step


def _is_lower(loss: float | None, present: float | None) -> bool:
    return loss is not None and (present is None or loss < present)


def _best_checkpoints(run: Run) -> list[Checkpoint]:
    try:
        return run.best_checkpoints()
    except Exception as error:  # each storage client has its own
        message = f"the checkpoints can't be read: {error}"
        raise StageFailure(StageReason.STORAGE_UNREADABLE, message, EXIT_RETRY) from error
