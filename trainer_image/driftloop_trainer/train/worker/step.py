"""One optimiser step: the exact mean loss per token of the whole batch, its gradient, clipped."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from driftloop.api.finetunejob import GradientReduction
from driftloop_trainer.train.worker.batches import Batch
from driftloop_trainer.train.worker.loss import loss_sum
from driftloop_trainer.train.worker.mesh import Mesh, copies


class NonFinite(Exception):
    """The loss or the gradient is infinite or not a number.

    Every rank raises it in the same step, before it changes a weight. `values` has both, summed over the ranks.
    `micro_batches`: the numbers of this rank's micro-batches with such a loss, from 0; empty if their losses are finite
    here.
    """

    def __init__(self, values: str, micro_batches: Sequence[int]) -> None:
        super().__init__(values)
        self.micro_batches = tuple(micro_batches)


def train_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    mesh: Mesh,
    batches: Sequence[Batch],
    trained_tokens: int,
    max_grad_norm: float,
    reduction: GradientReduction = "step",
) -> float:
    """Accumulate over this rank's microbatches, step once, and return the loss per token over all ranks.

    The loss is the sum over all ranks and microbatches divided by `trained_tokens`, all tokens of the step that
    count: any split of the same rows gives the same gradient. Raises NonFinite.
    """
    total = torch.zeros((), dtype=torch.float64, device=batches[0].ids.device)
    losses: list[torch.Tensor] = []
    for number, batch in enumerate(batches, start=1):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(reduction == "microBatch" or number == len(batches))
        loss = loss_sum(model, batch)
        # FSDP computes the mean of the gradients over the rows of the grid, but the step needs their sum.
        (loss * (mesh.data_size / trained_tokens)).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        total += losses[-1]
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    summed, norm = reduce_loss_and_norm(total / mesh.tensor_size, gradients)
    if not math.isfinite(summed) or not math.isfinite(norm):
        optimizer.zero_grad()
        broken = [number for number, loss in enumerate(losses) if not math.isfinite(loss.item())]
        raise NonFinite(f"loss {summed / trained_tokens}, gradient norm {norm}", broken)
    if norm > max_grad_norm:
        torch._foreach_mul_([_local(g) for g in gradients], max_grad_norm / (norm + 1e-6))
    optimizer.step()
    optimizer.zero_grad()
    return summed / trained_tokens


def reduce_loss_and_norm(loss: torch.Tensor, gradients: Sequence[torch.Tensor]) -> tuple[float, float]:
    """The loss summed over the ranks, and the norm of the whole gradient. Both take one exchange.

    A part of the gradient that several ranks hold counts once.
    """
    norms = torch._foreach_norm([_local(gradient) for gradient in gradients])
    squares = _sum_of_squares(norms, gradients) if norms else torch.zeros_like(loss)
    both = torch.stack([loss, squares])
    dist.all_reduce(both)
    summed, square = both.tolist()
    return summed, math.sqrt(square) if square >= 0 else math.nan


def _sum_of_squares(norms: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    squares = torch.stack(tuple(norms)).to(torch.float64).square()
    return (squares / squares.new_tensor([copies(gradient) for gradient in gradients])).sum()


def _local(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
