"""One optimiser step: the exact mean loss of the whole batch, its gradient, clipped."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from driftloop.api.finetunejob import GradientReduction
from driftloop_trainer.train.worker.batches import Batch
from driftloop_trainer.train.worker.mesh import Mesh, copies
from driftloop_trainer.train.worker.methods.nexttoken import token_sums

Sums = Callable[[Any, Batch], torch.Tensor]  # see Method.sums


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
    totals: list[torch.Tensor] = []
    for number, batch in enumerate(batches, start=1):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(reduction == "microBatch" or number == len(batches))
        summed = sums(model, batch)
        # FSDP computes the mean of the gradients over the rows of the grid, but the step needs their sum.
        (summed[0] * (mesh.data_size / count)).backward()  # type: ignore[no-untyped-call]
        totals.append(summed.detach().to(torch.float64))
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    totals_of_all, norm = reduce_sums_and_norm(torch.stack(totals).sum(0) / mesh.tensor_size, gradients)
    means = [value / count for value in totals_of_all]
    if not math.isfinite(means[0]) or not math.isfinite(norm):
        optimizer.zero_grad()
        broken = [number for number, (loss, *_) in enumerate(totals) if not math.isfinite(loss.item())]
        raise NonFinite(f"loss {means[0]}, gradient norm {norm}", broken)
    if norm > max_grad_norm:
        torch._foreach_mul_([_local(g) for g in gradients], max_grad_norm / (norm + 1e-6))
    optimizer.step()
    optimizer.zero_grad()
    return means


def reduce_sums_and_norm(sums: torch.Tensor, gradients: Sequence[torch.Tensor]) -> tuple[list[float], float]:
    """The sums added up over the ranks, and the norm of the whole gradient. Both take one exchange.

    A part of the gradient that several ranks hold counts once.
    """
    norms = torch._foreach_norm([_local(gradient) for gradient in gradients])
    squares = _sum_of_squares(norms, gradients) if norms else sums.new_zeros(())
    both = torch.cat([sums, squares.unsqueeze(0)])
    dist.all_reduce(both)
    *summed, square = both.tolist()
    return summed, math.sqrt(square) if square >= 0 else math.nan


def _sum_of_squares(norms: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    squares = torch.stack(tuple(norms)).to(torch.float64).square()
    return (squares / squares.new_tensor([copies(gradient) for gradient in gradients])).sum()


def _local(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
