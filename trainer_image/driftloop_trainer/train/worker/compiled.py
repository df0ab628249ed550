"""Decoder layers compiled one by one, and with them the loss of each chunk of tokens.

Layers of one class share their compiled code, so the first layer alone is compiled, and FSDP2's hooks stay outside.
torch compiles once for the first shape of a micro-batch. At the first other one it compiles for any number of rows or
tokens, and once more for a single row.
"""

from typing import Any

import torch
import torch._dynamo
import torch._inductor.config
from transformers import AttentionInterface

from driftloop_trainer.models import decoder_layers
from driftloop_trainer.train.worker import attention

_MARK = "loss_is_compiled"
_VARIANTS = 64  # of one function: shapes, with and without a gradient. torch runs further ones as they are


def compile_layers(model: Any, backend: str = "inductor") -> None:
    """Let the layers of `model` be compiled when they are first called. The model must not be sharded by FSDP yet.

    What can't be compiled is reported in the log, and runs as it is.
    """
    torch._dynamo.config.recompile_limit = _VARIANTS
    torch._dynamo.config.suppress_errors = True
    torch._inductor.config.compile_threads = 1  # each process of a pool would take the memory of torch again
    # Lengths of packed rows are numbers of the call: traced, they would be part of the compiled code.
    plain = torch.compiler.disable(attention.attention)  # type: ignore[no-untyped-call]
    AttentionInterface.register(attention.NAME, plain)
    for layer in decoder_layers(model):
        layer.forward = torch.compile(layer.forward, backend=backend)
    setattr(model, _MARK, backend)


def loss_backend(model: Any) -> str | None:
    """What compiles the loss of a chunk of tokens; None if it isn't compiled."""
    backend: str | None = getattr(model, _MARK, None)
    return backend


def bucket(tokens: int) -> int:
    """The width to which micro-batches are padded: at most an eighth more, or 7. Pure.

    So there are few shapes, and all of them fit the alignment that the compiled code may rely on.

    >>> [bucket(tokens) for tokens in (1, 8, 9, 130, 1000, 4096)]
    [8, 8, 16, 144, 1024, 4096]
    """
    step = max(8, 1 << ((tokens - 1).bit_length() - 4)) if tokens > 16 else 8
    return -(-tokens // step) * step
