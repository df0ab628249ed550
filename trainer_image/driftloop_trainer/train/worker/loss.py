"""The loss of a micro-batch, without all of its logits at once.

At 4,096 tokens and a vocabulary of 128,256 the logits and their gradient take some 6 GiB, more than the rest of an 8B
model's shard on eight GPUs. They are computed for some hundred tokens at a time, and again in the backward pass: the
output layer's matrix product is done three times instead of two.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from driftloop.contract.loss import chunk_tokens
from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.models import CHUNKED_TYPES
from driftloop_trainer.train.worker.attention import attends_by_document
from driftloop_trainer.train.worker.batches import Batch
from driftloop_trainer.train.worker.compiled import loss_backend

Head = Callable[[torch.Tensor], torch.Tensor]
ChunkLoss = Callable[[Head, torch.Tensor, torch.Tensor], torch.Tensor]


def loss_sum(model: Any, batch: Batch) -> torch.Tensor:
    """Summed cross-entropy over the targets that count, at least in float32."""
    return token_losses(model, batch).sum()


def row_log_probabilities(model: Any, batch: Batch) -> torch.Tensor:
    """The log-probability of all targets of a row that count; float64, (rows,)."""
    return -token_losses(model, batch).sum(1, dtype=torch.float64)


def token_losses(model: Any, batch: Batch) -> torch.Tensor:
    """Cross-entropy of each target, (rows, kept), at least in float32; 0 for those that don't count."""
    size = chunk_tokens(model.config.get_text_config().vocab_size)
    if model.config.model_type not in CHUNKED_TYPES or batch.targets.numel() <= size:
        return _cross_entropy(_forward(model, batch).flatten(0, 1), batch.targets.flatten()).view_as(batch.targets)
    backend = loss_backend(model)
    chunk_loss = _chunk_loss if backend is None else torch.compile(_chunk_loss, backend=backend)
    chunked = partial(_chunked, targets=batch.targets.flatten(), size=size, chunk_loss=chunk_loss)
    with _head_replaced(model, chunked):
        return _forward(model, batch).view_as(batch.targets)


def hidden_states(model: Any, batch: Batch) -> torch.Tensor:
    """The output of a stage that is not the last of its pipeline: in place of the logits, as it has no output layer."""
    tokens = torch.arange(batch.ids.shape[1], device=batch.ids.device)  # a slice would be a view, of which FSDP warns
    return _forward(model, replace(batch, kept=tokens))


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


def _chunk_loss(head: Head, states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return _cross_entropy(head(states), wanted)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)
