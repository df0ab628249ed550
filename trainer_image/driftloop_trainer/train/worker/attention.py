"""Attention in packed sequences, document by document: each costs as much as alone.

Without it, transformers keeps documents apart by a mask of tokens x tokens, which every layer computes and stores.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from driftloop_trainer.models import DOCUMENT_TYPES
from driftloop_trainer.train.worker.batches import Documents
from driftloop_trainer.train.worker.context import exchanged

NAME = "documents"  # of the function in transformers' list; it makes no mask for a name without a mask function
BLOCK = 1024  # least number of queries at a time in a document that is longer than the layer's window


def attend_by_document(model: Any) -> None:
    """Let packed documents of `model` attend without a mask, if its type is tested to give the same result."""
    if model.config.model_type in DOCUMENT_TYPES:
        model.config._attn_implementation = NAME


def attends_by_document(model: Any) -> bool:
    """Whether the forward pass of `model` needs `documents`."""
    return bool(model.config._attn_implementation == NAME)


def attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    *,
    documents: Documents,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    context: dist.ProcessGroup | None = None,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention, as transformers calls it, within each of `documents`.

    `query`: (rows, heads, tokens, size). `key` and `value`: the same, or fewer heads, each for several of the query.
    `sliding_window`: the number of last tokens that a token sees, itself among them. Returns (rows, tokens, heads,
    size). `context`: workers with other tokens of these rows; every one of them calls it with its tokens. `documents`
    and `context` come from the call of the model, so activation checkpointing passes them again.
    """
    if context is not None:
        query, key, value = (exchanged(states, context) for states in (query, key, value))
    rows, heads, tokens, size = query.shape
    queries, keys, values = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    if fits_varlen(_capability(query.device), query.dtype, size, dropout):
        attended = _varlen(queries, keys, values, documents, scaling, sliding_window)
    else:
        attend = partial(
            functional.scaled_dot_product_attention, scale=scaling, dropout_p=dropout, enable_gqa=heads != key.shape[1]
        )
        lengths = list(documents.lengths)
        alone = zip(*(torch.split(states, lengths) for states in (queries, keys, values)), strict=True)
        attended = torch.cat([_document(attend, sliding_window, *states) for states in alone])
    whole = attended.view(rows, tokens, heads, size)
    return whole if context is None else exchanged(whole, context), None


AttentionInterface.register(NAME, attention)


def fits_varlen(capability: tuple[int, int] | None, dtype: torch.dtype, size: int, dropout: float) -> bool:
    """Whether torch has a kernel for documents of many lengths. Pure.

    It is FlashAttention 2, which needs Ampere or newer and whose backward pass has heads of at most 256; torch's has no
    dropout. https://github.com/Dao-AILab/flash-attention#nvidia-cuda-support
    """
    fits = dtype in (torch.bfloat16, torch.float16) and size % 8 == 0 and size <= 256 and dropout == 0
    return fits and capability is not None and capability >= (8, 0)


def _capability(device: torch.device) -> tuple[int, int] | None:
    """The GPU's CUDA capability; None for the CPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def _varlen(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    documents: Documents,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """All documents at once; shapes (tokens, heads, size)."""
    starts, longest = documents.starts, max(documents.lengths)
    attended = varlen_attn(
        queries,
        keys,
        values,
        starts,
        starts,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    assert isinstance(attended, torch.Tensor)  # it is a pair if more is asked for
    return attended


def _document(attend: Callable[..., torch.Tensor], window: int | None, *states: torch.Tensor) -> torch.Tensor:
    """One document; query, key, value and result are (tokens, heads, size)."""
    query, key, value = (state.transpose(0, 1)[None] for state in states)
    if window is None or query.shape[2] <= window:
        attended = attend(query, key, value, is_causal=True)
    else:
        attended = _windowed(attend, window, query, key, value)
    return attended[0].transpose(0, 1)


def _windowed(
    attend: Callable[..., torch.Tensor], window: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """One document that is longer than the window: some queries at a time, with a mask for these."""
    positions = torch.arange(query.shape[2], device=query.device)
    blocks, start = [], 0
    for queries in torch.split(query, max(window, BLOCK), dim=2):
        end, first = start + queries.shape[2], max(0, start - window + 1)
        behind = positions[start:end, None] - positions[first:end]
        seen = (behind >= 0) & (behind < window)
        blocks.append(attend(queries, key[:, :, first:end], value[:, :, first:end], attn_mask=seen))
        start = end
    return torch.cat(blocks, dim=2)
