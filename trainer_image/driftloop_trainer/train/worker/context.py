"""Context parallelism: workers share the tokens of the same rows, so that a long row fits.

Each worker computes a part of the tokens in all layers. Only attention needs the others: around it the workers exchange
parts of the tokens with all heads for all tokens with a part of the heads, and back (Ulysses: Jacobs et al. 2023,
https://arxiv.org/abs/2309.14509). So attention is the same computation as without it.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.train.worker.batches import Batch, Documents


def exchanged(states: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Split dimension 1 over the workers of `group`, and join their parts of dimension 2. Every worker calls it.

    (rows, heads, tokens / N, size) becomes (rows, heads / N, tokens, size); and (rows, tokens, heads / N, size) becomes
    (rows, tokens / N, heads, size).
    """
    exchange: torch.Tensor = _Exchange.apply(states, 1, 2, group)
    return exchange


class _Exchange(torch.autograd.Function):
    """The exchange of the gradient is the reverse one."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, split: int, joined: int, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.split, ctx.joined, ctx.group = split, joined, group
        sent = torch.stack(states.chunk(group.size(), split))
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        return torch.cat(received.unbind(), joined)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = gradients
        return _Exchange.apply(gradient, ctx.joined, ctx.split, ctx.group), None, None, None


def on_any(own: list[int], group: dist.ProcessGroup) -> list[int]:
    """The numbers that any worker of `group` has, ascending. Every worker calls it with its own."""
    gathered: list[list[int]] = [[]] * group.size()
    dist.all_gather_object(gathered, own, group)
    return sorted({number for numbers in gathered for number in numbers})


def part(batch: Batch, group: dist.ProcessGroup) -> Batch:
    """This worker's part of a batch on the CPU: neighbouring tokens of each row, and their targets.

    Rows are padded to a multiple of the number of workers. `documents` describes whole rows, as attention needs; rows
    that are not packed are documents, too. A part without a target keeps a token, for its backward pass.
    """
    rows, width = batch.ids.shape
    tokens = -(-width // group.size())
    whole = batch.filled(rows, tokens * group.size())
    first = tokens * group.rank()
    mine = slice(first, first + tokens)
    positions, documents = whole.position_ids, whole.documents
    if positions is None or documents is None:
        positions = torch.arange(whole.ids.shape[1]).expand(rows, -1)
        documents = Documents.of([whole.ids.shape[1]] * rows)
    here = (whole.kept >= first) & (whole.kept < mine.stop)
    kept, targets = whole.kept[here] - first, whole.targets[:, here]
    if not len(kept):
        kept, targets = torch.zeros(1, dtype=torch.int64), torch.full((rows, 1), IGNORED)
    return replace(
        whole,
        ids=whole.ids[:, mine].contiguous(),
        targets=targets,
        kept=kept,
        position_ids=positions[:, mine].contiguous(),
        documents=documents,
        context=group,
    )
