"""How the attention and the layers of a training are computed, as the workers decide it. Pure.

The trainer's worker/attention.py and worker/loop.py decide at run time, from the same facts.
"""

from typing import assert_never

from driftloop.api.finetunejob import Attention, FineTuneJobSpec, Kernels, TrainingSpec
from driftloop.contract.result import ModelFacts

MOST_SIZE, MULTIPLE = 256, 8  # of a head, in torch's kernel for rows of many lengths (FlashAttention 2)


def attention_of(training: TrainingSpec, spec: FineTuneJobSpec, model: ModelFacts) -> Attention | None:
    """How rows attend; None if a training of the user's own decides. `training`: with its precision."""
    if training.entrypoint is not None:
        return None
    by_document = training.packing or spec.compute.axes.context > 1
    if not by_document:
        return "sdpa"
    if not model.document_attention:
        return "mask"
    size = model.head_size or model.hidden_size // max(1, model.num_attention_heads)
    fits = size % MULTIPLE == 0 and size <= MOST_SIZE
    return "varlen" if spec.compute.gpus_per_node and training.bf16 and fits else "perDocument"


def why_attention(attention: Attention, training: TrainingSpec, spec: FineTuneJobSpec) -> str:
    """The reason of `attention_of`."""
    rows = "packed rows attend to themselves alone" if training.packing else "workers share the tokens of rows"
    match attention:
        case "sdpa":
            return "rows are not packed: torch's scaled_dot_product_attention over padded rows"
        case "mask":
            return f"{rows}, by a mask: this type of model is not tested without"
        case "varlen":
            return f"{rows}, in one call of torch's kernel; row by row on GPUs older than Ampere or with dropout"
        case "perDocument" if spec.compute.gpus_per_node == 0:
            return f"{rows}, one after the other: on CPUs torch has no kernel for many lengths"
        case "perDocument" if not training.bf16:
            return f"{rows}, one after the other: torch's kernel for many lengths needs training.bf16"
        case "perDocument":
            return f"{rows}, one after the other: torch's kernel needs heads of at most {MOST_SIZE}, in eights"
        case never:
            assert_never(never)


def kernels_of(training: TrainingSpec, *, compiled: bool) -> Kernels | None:
    """What computes the layers; None if a training of the user's own decides."""
    if training.entrypoint is not None:
        return None
    if training.float8:
        return "float8"
    return "compiled" if compiled else "torch"


def why_kernels(kernels: Kernels, model: ModelFacts) -> str:
    """The reason of `kernels_of`, and how the loss is computed."""
    loss = "for some tokens at a time" if model.chunked_loss else "for all tokens at once, as this type needs"
    match kernels:
        case "torch":
            return f"layers are not compiled (see compile); the loss is computed {loss}"
        case "compiled":
            return f"layers are compiled for the device (see compile); the loss is computed {loss}"
        case "float8":
            return f"training.float8: compiled, with matrices multiplied in float8; the loss is computed {loss}"
        case never:
            assert_never(never)
