"""The loss of a micro-batch, without all of its logits at once.

At 4,096 tokens and a vocabulary of 128,256 the logits and their gradient take some 6 GiB, more than the rest of an 8B
model's shard on eight GPUs. They are computed for some hundred tokens at a time. If only the sum is wanted, the
gradient follows at once, in the forward pass: what the sum is multiplied with later is one factor for all tokens. A
loss that weighs its tokens or rows computes the logits again in the backward pass, which is one more matrix product.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from driftloop.contract.loss import LOGITS_BYTES, chunk_tokens
from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.models import CHUNKED_TYPES
from driftloop_trainer.train.worker.attention import attends_by_document
from driftloop_trainer.train.worker.batches import Batch
from driftloop_trainer.train.worker.compiled import loss_backend

Head = Callable[[torch.Tensor], torch.Tensor]
ChunkLoss = Callable[[Head, torch.Tensor, torch.Tensor], torch.Tensor]
OfChunks = Callable[..., torch.Tensor]
_MARK = "logits_bytes"


def limit_logits(model: Any, most: int) -> None:
    """Compute the logits of `model` for so few tokens at a time that they take at most so many bytes in float32."""
    setattr(model, _MARK, most)


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:
    """Summed cross-entropy over the targets that count, at least in float32."""
    if not torch.is_grad_enabled():
        return token_losses(model, batch).sum()
    return _losses(model, batch, partial(_summed, model.get_output_embeddings())).sum()


def row_log_probabilities(model: Any, batch: Batch) -> torch.Tensor:
    """The log-probability of all targets of a row that count; float64, (rows,)."""
    return -token_losses(model, batch).sum(1, dtype=torch.float64)


def token_losses(model: Any, batch: Batch) -> torch.Tensor:
    """Cross-entropy of each target, (rows, kept), at least in float32; 0 for those that don't count."""
    return _losses(model, batch, _chunked).view_as(batch.targets)


def _losses(model: Any, batch: Batch, of_chunks: OfChunks) -> torch.Tensor:
    """What `of_chunks` returns, or the loss of each of the flat targets if they are few."""
    size = chunk_tokens(model.config.get_text_config().vocab_size, getattr(model, _MARK, LOGITS_BYTES))
    if model.config.model_type not in CHUNKED_TYPES or batch.targets.numel() <= size:
        return _cross_entropy(_forward(model, batch).flatten(0, 1), batch.targets.flatten())
    backend = loss_backend(model)
    chunk_loss = _chunk_loss if backend is None else torch.compile(_chunk_loss, backend=backend)
    chunked = partial(of_chunks, targets=batch.targets.flatten(), size=size, chunk_loss=chunk_loss)
    with _head_replaced(model, chunked):
        return _forward(model, batch)


def hidden_states(model: Any, batch: Batch) -> torch.Tensor:
    """The output of a stage that is not the last of its pipeline, for all tokens: in place of the logits."""
    return _forward(model, batch)


def _forward(model: Any, batch: Batch) -> torch.Tensor:
    documents = {"documents": batch.documents, "context": batch.context} if attends_by_document(model) else {}
    # use_cache must be off: with it, transformers would let packed rows attend to each other.
    logits: torch.Tensor = model(
        batch.ids, position_ids=batch.position_ids, use_cache=False, logits_to_keep=batch.kept, **documents
    ).logits
    return logits


@contextmanager
def _head_replaced(model: Any, replacement: Callable[[Head, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Let `replacement(head, hidden)` compute what the model returns as its logits.

    It runs inside the model's own forward pass: only there are FSDP's parameters whole.
    """
    head = model.get_output_embeddings()
    forward = head.forward
    head.forward = partial(replacement, forward)
    try:
        yield
    finally:
        head.forward = forward


def _chunked(head: Head, hidden: torch.Tensor, targets: torch.Tensor, size: int, chunk_loss: ChunkLoss) -> torch.Tensor:
    """The loss of each of the flat `targets`, from `hidden` of shape (rows, kept, width)."""
    chunks = zip(torch.split(hidden.flatten(0, 1), size), torch.split(targets, size), strict=True)
    losses: list[torch.Tensor] = [checkpoint(chunk_loss, head, *chunk, use_reentrant=False) for chunk in chunks]
    return torch.cat(losses)


def _summed(
    module: nn.Module, head: Head, hidden: torch.Tensor, targets: torch.Tensor, size: int, chunk_loss: ChunkLoss
) -> torch.Tensor:
    """The sum of the losses of the flat `targets`, of shape (1,). `module`: whose forward pass is `head`."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]  # under FSDP whole, but only here
    loss_of = partial(chunk_loss, head)
    total: torch.Tensor = _Summed.apply(loss_of, targets, size, hidden.flatten(0, 1), *weights)
    return total


class _Summed(torch.autograd.Function):
    """Computes the gradient of each chunk in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        targets: torch.Tensor,
        size: int,
        hidden: torch.Tensor,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        """`loss_of`: the losses of a chunk of `hidden`, by a function of `weights` too."""
        sums, of_hidden = [], []
        of_weights: list[torch.Tensor] = []
        for states, wanted in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
            with torch.enable_grad():
                leaf = states.detach().requires_grad_()
                total = loss_of(leaf, wanted).sum()
            with _in_own_precision(weights):
                first, *others = torch.autograd.grad(total, (leaf, *weights), materialize_grads=True)
            for gradient, more in zip(of_weights, others, strict=False):
                gradient.add_(more)
            of_weights = of_weights or others
            of_hidden.append(first)
            sums.append(total.detach())
        ctx.gradients = [torch.cat(of_hidden), *of_weights]
        return torch.stack(sums).sum(0, keepdim=True)  # FSDP warns of a view

    @staticmethod
    def backward(ctx: Any, factor: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale what `forward` has kept, in place and without another reference: torch would copy what it can't take.

        A copy would be as large as the output layer.
        """
        gradients, ctx.gradients = ctx.gradients, None
        return (None, None, None, *(gradient.mul_(factor) for gradient in gradients))


@contextmanager
def _in_own_precision(weights: Sequence[torch.Tensor]) -> Iterator[None]:
    """Compute gradients in the precision of `weights`: FSDP sets float32 for the sum, which takes twice as much."""
    others = [(weight, weight.grad_dtype) for weight in weights if weight.grad_dtype not in (None, weight.dtype)]
    for weight, _ in others:
        weight.grad_dtype = weight.dtype
    try:
        yield
    finally:
        for weight, dtype in others:
            weight.grad_dtype = dtype


def _chunk_loss(head: Head, states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return _cross_entropy(head(states), wanted)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)
