"""One optimiser step: the exact mean loss of the whole batch, its gradient, clipped."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from driftloop.api.finetunejob import GradientReduction
from driftloop_trainer.train.worker.batches import Batch
from driftloop_trainer.train.worker.context import on_any
from driftloop_trainer.train.worker.mesh import Mesh, copies
from driftloop_trainer.train.worker.methods.method import Sums
from driftloop_trainer.train.worker.methods.nexttoken import token_sums
from driftloop_trainer.train.worker.pipeline import Pipeline


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
    count: int,
    max_grad_norm: float,
    reduction: GradientReduction = "step",
    sums: Sums = token_sums,
) -> list[float]:
    """Accumulate over this rank's microbatches, step once, and return the means of loss and measures over all ranks.

    The loss is the sum over all ranks and microbatches divided by `count`, all tokens or pairs of the step that count:
    any split of the same rows gives the same gradient. Raises NonFinite.
    """
    reduces_each = reduction == "microBatch"
    factor = mesh.data.size() / count  # FSDP computes the mean of the gradients over its workers, not their sum
    if isinstance(model, Pipeline):
        totals, twin = model.accumulate(sums, batches, factor, reduces_each), model.twin
    else:
        totals, twin = accumulate(model, sums, batches, factor, reduces_each), None
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [p.grad for p in trained]
    held = [copies(p.grad) * (2 if p is twin else 1) for p in trained]
    totals_of_all, norm = reduce_sums_and_norm(torch.stack(totals).sum(0) / mesh.tensor_size, gradients, held)
    means = [value / count for value in totals_of_all]
    if not math.isfinite(means[0]) or not math.isfinite(norm):
        optimizer.zero_grad()
        broken = [number for number, (loss, *_) in enumerate(totals) if not math.isfinite(loss.item())]
        if isinstance(model, Pipeline):
            broken = model.from_last_stage(broken)
        if mesh.context is not None:
            broken = on_any(broken, mesh.context)
        raise NonFinite(f"loss {means[0]}, gradient norm {norm}", broken)
    if norm > max_grad_norm:
        torch._foreach_mul_([_local(g) for g in gradients], max_grad_norm / (norm + 1e-6))
    optimizer.step()
    optimizer.zero_grad()
    return means


def accumulate(
    model: Any, sums: Sums, batches: Sequence[Batch], factor: float, reduces_each: bool
) -> list[torch.Tensor]:
    """Add up the gradients of `factor` times the loss of this rank's micro-batches, and return the sums of each.

    `reduces_each`: reduce gradients over the rows of the grid after each micro-batch, not once.
    """
    totals: list[torch.Tensor] = []
    for number, batch in enumerate(batches, start=1):
        if isinstance(model, FSDPModule):
            last = number == len(batches)
            model.set_requires_gradient_sync(reduces_each or last)
            model.set_requires_all_reduce(last)  # between replicas of the model
        summed = sums(model, batch)
        (summed[0] * factor).backward()  # type: ignore[no-untyped-call]
        totals.append(summed.detach().to(torch.float64))
    return totals


def reduce_sums_and_norm(
    sums: torch.Tensor, gradients: Sequence[torch.Tensor], held: Sequence[int]
) -> tuple[list[float], float]:
    """The sums added up over the ranks, and the norm of the whole gradient. Both take one exchange.

    `held`: how many ranks hold the same part of each gradient. It counts once.
    """
    norms = torch._foreach_norm([_local(gradient) for gradient in gradients])
    squares = _sum_of_squares(norms, held) if norms else sums.new_zeros(())
    both = torch.cat([sums, squares.unsqueeze(0)])
    dist.all_reduce(both)
    *summed, square = both.tolist()
    return summed, math.sqrt(square) if square >= 0 else math.nan


def _sum_of_squares(norms: Sequence[torch.Tensor], held: Sequence[int]) -> torch.Tensor:
    squares = torch.stack(tuple(norms)).to(torch.float64).square()
    return (squares / squares.new_tensor(held)).sum()


def _local(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
