"""Sharded training is the same as plain training, whatever the split, and after a restart.

The losses of every case are compared. The recorded cases, ten steps on four ranks, and those with a pipeline also
compare the gradients of each step before they are clipped, and the weights at the end: the largest difference of a
tensor's elements, relative to its largest element.
"""

import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from driftloop.api.finetunejob import Adapter
from driftloop.contract.course import Course
from driftloop.controller.kinds.finetunejob.cells import CONTEXT_TYPES, PIPELINE_TYPES, SHARDED_TYPES, TENSOR_TYPES
from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.tensorplan import OWN
from driftloop_trainer.train.worker.order import Order
from driftloop_trainer.train.worker.schedule import learning_rate_factor
from driftloop_trainer.train.worker.seeds import seed_of
from parts import runs, sweep
from unit.trainer.ranks import run_script
from unit.trainer.sharded_run import PAD, STEPS, Tensors, adapter_of, tiny_model, training

pytestmark = pytest.mark.timeout(2400)  # all cases may take half of it beside other tests

QLORA = {"qlora": True}
DROPOUT = {"lora": True, "dropout": 0.3}
GRID = {"world_size": 4, "tensor": 2, "micro_size": 1, "save_steps": 100}  # two rows of two, which share each matrix
WINDOWS = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}  # both kinds of layers
CAPPED = WINDOWS | {"attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0}
FACTORS = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 2.0}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
LATENT |= {"num_key_value_heads": 4}
EXPERTS = {"num_experts": 6, "num_local_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
EXPERTS |= {"shared_expert_intermediate_size": 16, "n_routed_experts": 6, "n_group": 1, "topk_group": 1}
EXPERTS |= {"first_k_dense_replace": 1}
LARGE = {"initializer_range": 0.1}  # layer norms of small numbers magnify the last bits
TOKENS = {"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2}  # those of many types are beyond the vocabulary
# What layers of a type do that Llama's don't, with numbers that show it.
UNUSUAL: dict[str, dict[str, Any]] = {
    "apertus": LARGE,
    "cohere": {"logit_scale": 0.5},
    "cohere2": WINDOWS | {"logit_scale": 0.5},
    "cwm": WINDOWS,
    "deepseek_v3": LATENT | EXPERTS,
    "ernie4_5_moe": EXPERTS,
    "exaone4": WINDOWS,
    "gemma2": CAPPED,
    "gemma3_text": WINDOWS,
    "glm4_moe": EXPERTS,
    "gpt_oss": EXPERTS | WINDOWS,
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "granite": FACTORS,
    "granitemoe": EXPERTS | FACTORS,
    "hyperclovax": FACTORS,
    "jais2": LARGE,
    "minicpm3": LATENT,
    "ministral": WINDOWS,
    "mixtral": EXPERTS,
    "olmo": LARGE,
    "olmoe": EXPERTS,
    "opt": {"dropout": 0.0, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen2_moe": EXPERTS,
    "qwen3_moe": EXPERTS,
    "seed_oss": {"attention_dropout": 0.0, "residual_dropout": 0.0},
    "vaultgemma": CAPPED,
    "youtu": LATENT,
}
# A constant that is added to all scores of a token changes nothing: the gradient of such a bias is 0 but for rounding.
WITHOUT_GRADIENT = {"opt": "k_proj.bias"}


def typed(model_type: str, tied: bool) -> dict[str, Any]:
    """The configuration of a type in a sweep over all types."""
    return {"model_type": model_type, "tie_word_embeddings": tied} | TOKENS | UNUSUAL.get(model_type, {})


# Types that are split and shared with tied and with untied embeddings; others with one of these. Stages are with both.
BOTH = {"gemma", "gemma3_text", "granite", "llama", "mistral", "mixtral", "olmo2", "olmo3", "phi", "phi3", "qwen2"}
BOTH |= {"qwen3", "smollm3", "starcoder2"}


def variants(types: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Types, and whether their embeddings are tied."""
    for number, model_type in enumerate(types):
        yield from ((model_type, tied) for tied in (True, False) if model_type in BOTH or tied == (number % 2 == 0))


# Types that FSDP2 alone shards. The others are in RECORDED.
SHARDS: dict[str, dict[str, Any]] = {
    f"shards of {model_type}": {"model": typed(model_type, number % 2 == 0)}
    for number, model_type in enumerate(sorted({*SHARDED_TYPES} - {"llama", "mixtral", "qwen3"}))
}
SPLIT: dict[str, dict[str, Any]] = {
    f"{model_type} {'tied' if tied else 'untied'}": {"model": typed(model_type, tied)}
    for model_type, tied in variants([model_type for model_type in TENSOR_TYPES if model_type not in OWN])
} | {
    "split, reduced each time": {"model": {"model_type": "qwen3"}, "reduction": "microBatch"},
    "split, recomputed": {"model": {"model_type": "qwen3"}, "checkpointing": True},
    "split over all": {"world_size": 2},
    "split, in chunks": {"model": {"model_type": "qwen3"}, "chunk": 8},
    "split, odd vocabulary": {"model": {"vocab_size": 67, "tie_word_embeddings": False}, "chunk": 8},
    "split, biases": {"model": {"attention_bias": True, "mlp_bias": True}},
}
# Types that are split by a plan of our own.
PLANNED: dict[str, dict[str, Any]] = {
    f"{model_type} {'tied' if tied else 'untied'}": {"model": typed(model_type, tied)}
    for model_type, tied in variants([model_type for model_type in TENSOR_TYPES if model_type in OWN])
} | {
    "split, norms of each head": {"model": typed("cohere", tied=True) | {"use_qk_norm": True}},
    "split, norms of heads": {"model": typed("phi", tied=False) | {"qk_layernorm": True}},
    "split, joined matrices, adapters": {"model": typed("phi3", tied=False), "lora": True},
    "split, latents, adapters": {"model": typed("youtu", tied=True), "lora": True},
}
PACKED: dict[str, dict[str, Any]] = {
    "packed": {"world_size": 2, "micro_size": 4, "save_steps": 100},
    "packed, windows": {"world_size": 2, "micro_size": 2, "save_steps": 100, "checkpointing": True}
    | {"model": {"model_type": "mistral", "sliding_window": 5}},
    "packed, lora": {"world_size": 2, "micro_size": 2, "save_steps": 100, "lora": True},
    "packed, split": GRID | {"model": {"model_type": "qwen3"}},
    "packed, shared": {"world_size": 2, "context": 2, "micro_size": 3, "save_steps": 100},
    "packed, shared, windows": {"world_size": 2, "context": 2, "micro_size": 2, "save_steps": 100}
    | {"model": {"model_type": "mistral", "sliding_window": 5}, "checkpointing": True},
    "packed, shared, lora": {"world_size": 4, "context": 2, "micro_size": 2, "save_steps": 100, "lora": True},
}
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 6, "num_experts_per_tok": 2}  # uneven shards of experts
# Seven rows on four ranks, one at a time: accumulated over two micro-batches, and one rank's last one is empty.
KINDS: dict[str, dict[str, Any]] = {
    "shards": {},
    "shards of adapters": {"lora": True},
    "split over all": {"tensor": 4, "model": {"num_key_value_heads": 4}},
    "shards of split": {"tensor": 2},
    "replicas of shards": {"replicate": 2},
    "replicas of adapters": {"replicate": 2, "lora": True},
    "replicas of split": {"replicate": 2, "tensor": 2},
    "adapters split over all": {"lora": True, "tensor": 4, "model": {"num_key_value_heads": 4}},
    "shards of split adapters": {"lora": True, "tensor": 2},
    "replicas of split adapters": {"replicate": 2, "lora": True, "tensor": 2},
    "rows shared by all": {"context": 4, "model": {"num_key_value_heads": 4}},
    "rows shared by two": {"context": 2},
    "adapters, rows shared by two": {"context": 2, "lora": True},
    "replicas that share rows": {"replicate": 2, "context": 2},
    "split, rows shared by two": {"tensor": 2, "context": 2, "model": {"num_key_value_heads": 4}},
    "split adapters, rows shared by two": {
        "tensor": 2,
        "context": 2,
        "lora": True,
        "model": {"num_key_value_heads": 4},
    },
}
RECORDED: dict[str, dict[str, Any]] = {
    f"{model_type}, {name}": case | {"model": {"model_type": model_type} | case.get("model", {})}
    for model_type in ("llama", "qwen3")
    for name, case in KINDS.items()
} | {
    "mixtral, shards": {"model": MIXTRAL},
    "mixtral, shards of adapters": {"model": MIXTRAL, "lora": True},
    "mixtral, rows shared by two": {"model": MIXTRAL, "context": 2},
    "replicas of shards, reduced each time": {"replicate": 2, "reduction": "microBatch"},
    "replicas": {"replicate": 4},
    "llama, shards of osf": {"osf": True},
    "llama, osf, rows shared by two": {"osf": True, "context": 2},
    "llama, shards of 4 bits": {"qlora": True, "checkpointing": True},
    "qwen3, replicas of 4 bits": {
        "qlora": True,
        "replicate": 2,
        "reduction": "microBatch",
        # With weights of the usual 0.02, a gradient of an adapter is as small as AdamW's epsilon here, which magnifies
        # the last bits of a rounding that differs between CPUs.
        "model": {"model_type": "qwen3", "initializer_range": 0.03},
    },
    "qwen3, replicas of osf": {
        "osf": True,
        "replicate": 2,
        "reduction": "microBatch",
        "model": {"model_type": "qwen3"},
    },
    "adapters of the vocabulary": {
        "lora": True,
        "targets": ["embed_tokens", "lm_head", "q_proj", "o_proj"],
        "tensor": 2,
        "model": {"vocab_size": 67, "tie_word_embeddings": False},
        "chunk": 8,
    },
}
STAGED: dict[str, dict[str, Any]] = {
    f"staged {model_type} {'tied' if tied else 'untied'}": {
        "world_size": 2,
        "model": typed(model_type, tied),
    }
    for model_type in PIPELINE_TYPES
    for tied in (True, False)
} | {
    "staged, sharded": {"world_size": 4, "model": {"model_type": "qwen3"}},
    "staged, split": {"world_size": 4, "tensor": 2, "model": {"model_type": "qwen3"}},
    "staged, split, untied": {"world_size": 4, "tensor": 2, "model": {"tie_word_embeddings": False}},
    "staged, reduced each time": {"world_size": 4, "micro_size": 1, "reduction": "microBatch"},
    "staged, fewer micro-batches than stages": {"world_size": 2, "micro_size": 7},
    "staged, many micro-batches": {"world_size": 2, "micro_size": 1},
    "staged, recomputed, in chunks": {"world_size": 2, "checkpointing": True, "chunk": 8},
    "staged, adapters": {"world_size": 4, "lora": True},
    "staged, replicas": {"world_size": 4, "replicate": 2, "micro_size": 1},
    "staged, replicas, reduced each time": {"world_size": 4, "replicate": 2, "micro_size": 1, "reduction": "microBatch"}
    | {"lora": True},
    "staged, split, adapters": {"world_size": 4, "tensor": 2, "lora": True, "model": {"tie_word_embeddings": False}},
    "staged, sharded, split": {"world_size": 8, "tensor": 2},
    "staged, sharded, split, adapters": {"world_size": 8, "tensor": 2, "lora": True, "model": {"model_type": "qwen3"}},
    "staged, replicas of shards": {"world_size": 8, "replicate": 2, "model": {"model_type": "qwen3"}},
    "staged, replicas of split adapters": {"world_size": 8, "replicate": 2, "tensor": 2, "lora": True},
    "staged, packed": {"world_size": 2, "data": "packed", "model": {"tie_word_embeddings": False}},
    "staged four times": {"world_size": 4, "pipeline": 4, "micro_size": 1, "model": {"num_hidden_layers": 5}},
}
# Several stages per worker.
_INTERLEAVED: dict[str, dict[str, Any]] = {
    "interleaved": {"model": {"num_hidden_layers": 5}},
    "interleaved, untied, in units": {
        "unit_bytes": 50_000,
        "micro_size": 1,
        "model": {"num_hidden_layers": 9, "tie_word_embeddings": False, "model_type": "qwen3"},
    },
    "interleaved, fewer micro-batches than workers": {"micro_size": 7},
    "interleaved, an empty micro-batch": {"micro_size": 1, "chunk": 8},
    "interleaved, reduced each time": {"world_size": 4, "micro_size": 1, "reduction": "microBatch"},
    "interleaved, recomputed, in chunks": {"checkpointing": True, "chunk": 8},
    "interleaved, adapters": {"world_size": 4, "lora": True, "micro_size": 1},
    "interleaved, packed": {"data": "packed", "micro_size": 1, "model": {"tie_word_embeddings": False}}
    | {"stages_per_worker": 3},
    "interleaved, replicas": {"world_size": 4, "replicate": 2, "micro_size": 1},
    "interleaved, split": {"world_size": 4, "tensor": 2, "micro_size": 1},
    "interleaved, shared": {"world_size": 4, "context": 2, "micro_size": 1},
    "interleaved, four workers": {"world_size": 4, "pipeline": 4, "micro_size": 1, "stages_per_worker": 2}
    | {"model": {"num_hidden_layers": 9}},
}
STAGED |= {
    name: {"world_size": 2, "stages_per_worker": 2} | case | {"model": {"num_hidden_layers": 6} | case.get("model", {})}
    for name, case in _INTERLEAVED.items()
}


def steps_of(case: dict[str, Any]) -> int:
    """The steps of a case with a pipeline: ten on four processes or more."""
    return 10 if case["world_size"] >= 4 else STEPS


SHARED: dict[str, dict[str, Any]] = {
    f"shared {model_type} {'tied' if tied else 'untied'}": {"model": typed(model_type, tied)}
    for model_type, tied in variants(CONTEXT_TYPES)
} | {
    "shared, reduced each time": {"world_size": 4, "micro_size": 1, "reduction": "microBatch"},
    "shared, recomputed, in chunks": {"checkpointing": True, "chunk": 8},
    "shared, windows": {"model": {"model_type": "mistral", "sliding_window": 5}},
    "shared, staged": {"world_size": 4, "pipeline": 2},
    "shared, staged, adapters": {"world_size": 4, "pipeline": 2, "lora": True},
    "shared, staged, packed": {"world_size": 4, "pipeline": 2, "data": "packed"},
    "shared, staged, split": {"world_size": 8, "pipeline": 2, "tensor": 2, "model": {"num_key_value_heads": 4}},
    "shared, sharded, split": {"world_size": 8, "tensor": 2, "model": {"num_key_value_heads": 4}, "lora": True},
    "shared, staged, replicas": {"world_size": 8, "pipeline": 2, "replicate": 2, "model": {"model_type": "qwen3"}},
}
CASES: list[dict[str, Any]] = [
    {"name": "plain", "world_size": 2, "micro_size": 4, "save_steps": 100},
    {"name": "two layers a unit", "world_size": 2, "micro_size": 4, "save_steps": 100, "unit_bytes": 100_000},
    {"name": "one unit", "world_size": 2, "micro_size": 4, "save_steps": 100, "unit_bytes": 2**30},
    {"name": "accumulated", "world_size": 2, "micro_size": 1, "save_steps": 100},
    {"name": "reduced each time", "world_size": 2, "micro_size": 1, "save_steps": 100, "reduction": "microBatch"},
    {"name": "in chunks", "world_size": 2, "micro_size": 4, "save_steps": 100, "chunk": 8},
    {"name": "recomputed", "world_size": 2, "micro_size": 2, "save_steps": 100, "checkpointing": True},
    {"name": "lora", "world_size": 2, "micro_size": 2, "save_steps": 100, "lora": True},
    {"name": "killed", "world_size": 2, "micro_size": 4, "save_steps": 2, "run": "interrupted", "stop_after": 3},
    {"name": "resumed", "world_size": 1, "micro_size": 3, "save_steps": 100, "run": "interrupted"},
    {
        "name": "sigterm",
        "world_size": 2,
        "micro_size": 4,
        "save_steps": 100,
        "run": "drained",
        "sigterm_after": 2,
        "stop_after": 4,
    },
    {"name": "drained", "world_size": 1, "micro_size": 3, "save_steps": 100},
    {"name": "left", "world_size": 2, "micro_size": 4, "save_steps": 2, "run": "cut", "stop_after": 5},
    {
        "name": "fallen back",
        "world_size": 2,
        "micro_size": 4,
        "save_steps": 2,
        "run": "cut",
        "cut_short": "__1_0.distcp",
    },
    {"name": "dropout", "world_size": 2, "micro_size": 4, "save_steps": 100, **DROPOUT},
    {
        "name": "dropout killed",
        "world_size": 2,
        "micro_size": 4,
        "save_steps": 2,
        "run": "d",
        "stop_after": 3,
        **DROPOUT,
    },
    {"name": "dropout resumed", "world_size": 2, "micro_size": 4, "save_steps": 100, "run": "d", **DROPOUT},
    *(
        {"name": name, "world_size": 2, "micro_size": 1, "save_steps": 100, "recorded": True} | case
        for name, case in SHARDS.items()
    ),
    *(GRID | {"name": name} | case for name, case in SPLIT.items()),
    *(GRID | {"name": name, "recorded": True} | case for name, case in PLANNED.items()),
    *({"name": name, "data": "packed"} | case for name, case in PACKED.items()),
    *(
        {"name": name, "world_size": 4, "micro_size": 1, "save_steps": 100, "steps": 10, "recorded": True} | case
        for name, case in RECORDED.items()
    ),
    GRID | {"name": "split killed", "save_steps": 2, "run": "s", "stop_after": 3},
    {"name": "split resumed in shards", "world_size": 2, "micro_size": 4, "save_steps": 100, "run": "s"},
    GRID | {"name": "split adapters killed", "lora": True, "save_steps": 2, "run": "a", "stop_after": 3},
    {"name": "adapters resumed", "world_size": 2, "micro_size": 4, "save_steps": 100, "run": "a", "lora": True},
    {
        "name": "replicas killed",
        "world_size": 4,
        "replicate": 2,
        "micro_size": 1,
        "save_steps": 2,
        "run": "r",
        "stop_after": 3,
    },
    {"name": "replicas resumed in shards", "world_size": 2, "micro_size": 4, "save_steps": 100, "run": "r"},
    {"name": "osf killed", "world_size": 2, "micro_size": 4, "save_steps": 2, "run": "o", "stop_after": 3, "osf": True},
    {
        "name": "osf resumed",
        "world_size": 1,
        "micro_size": 3,
        "save_steps": 100,
        "run": "o",
        "osf": True,
        "spoilt": True,
    },
    {"name": "4 bits killed", "world_size": 2, "micro_size": 4, "save_steps": 2, "run": "q", "stop_after": 3} | QLORA,
    {"name": "4 bits resumed", "world_size": 1, "micro_size": 3, "save_steps": 100, "run": "q"} | QLORA,
    {"name": "shards killed", "world_size": 2, "micro_size": 4, "save_steps": 2, "run": "t", "stop_after": 3},
    {"name": "shards resumed split", "world_size": 2, "tensor": 2, "micro_size": 4, "save_steps": 100, "run": "t"},
    *(
        {"pipeline": 2, "micro_size": 2, "save_steps": 100, "name": name, "recorded": True, "steps": steps_of(case)}
        | case
        for name, case in STAGED.items()
    ),
    *(
        {"world_size": 2, "context": 2, "micro_size": 2, "save_steps": 100, "name": name} | case
        for name, case in SHARED.items()
    ),
    {"name": "shared killed", "world_size": 4, "context": 2, "micro_size": 1, "save_steps": 2, "run": "w"}
    | {"stop_after": 3},
    {"name": "shared resumed in shards", "world_size": 2, "micro_size": 4, "save_steps": 100, "run": "w"},
    GRID | {"name": "split again killed", "save_steps": 2, "run": "u", "stop_after": 3},
    {"name": "split resumed staged", "world_size": 2, "pipeline": 2, "micro_size": 4, "save_steps": 100, "run": "u"},
    {
        "name": "staged killed",
        "world_size": 4,
        "pipeline": 2,
        "micro_size": 2,
        "save_steps": 2,
        "run": "v",
        "stop_after": 3,
    },
    {"name": "staged resumed in shards", "world_size": 2, "micro_size": 4, "save_steps": 100, "run": "v"},
]


MAIN_SPLIT = ("llama untied", "split, in chunks")
MAIN_PACKED = ("packed, split", "packed, shared")
MAIN_RECORDED = (
    "llama, replicas of shards",
    "llama, shards",
    "qwen3, shards of adapters",
    "qwen3, shards of split",
    "llama, shards of split adapters",
    "llama, shards of osf",
    "llama, rows shared by two",
    "llama, shards of 4 bits",
)
MAIN_STAGED = ("staged, split", "staged, adapters", "staged, packed", "interleaved, packed")
MAIN_SHARED = ("shared, windows",)
RESUMED_STAGED = ("split again killed", "split resumed staged")
# What make test runs.
MAIN = (
    "plain",
    "accumulated",
    "reduced each time",
    "in chunks",
    "lora",
    "killed",
    "resumed",
    "left",
    "fallen back",
    "sigterm",
    "drained",
    *MAIN_SPLIT,
    *MAIN_PACKED,
    *MAIN_RECORDED,
    *MAIN_STAGED,
    *MAIN_SHARED,
    *RESUMED_STAGED,
)


def dataset(folder: Path) -> Dataset:
    """Sequences of very different lengths, some with hardly any token that counts."""
    random = np.random.default_rng(1)
    ids = [random.integers(1, 64, size=int(length)).tolist() for length in random.integers(3, 30, size=23)]
    labels = [[IGNORED, *row[1:]] for row in ids]
    for row in labels[::2]:
        row[: len(row) - 1] = [IGNORED] * (len(row) - 1)
    write_dataset(folder, ids, labels, [[len(row)] for row in ids])
    return Dataset(folder / FILE)


def packed_dataset(folder: Path) -> Dataset:
    """Sequences of one to four rows."""
    folder.mkdir()
    random = np.random.default_rng(2)
    packs = [random.integers(1, 16, size=int(rows)).tolist() for rows in random.integers(1, 5, size=16)]
    ids = [random.integers(1, 64, size=sum(pack)).tolist() for pack in packs]
    firsts = [{0, *np.cumsum(pack).tolist()} for pack in packs]
    labels = [
        [IGNORED if place in first else token for place, token in enumerate(row)]
        for row, first in zip(ids, firsts, strict=True)
    ]
    write_dataset(folder, ids, labels, packs)
    return Dataset(folder / FILE)


@dataclass(frozen=True)
class Plain:
    """What plain training leaves: the loss and the gradients of each step, and the weights at the end."""

    losses: list[float] = field(default_factory=list)
    gradients: list[Tensors] = field(default_factory=list)
    weights: Tensors = field(default_factory=dict)


def plain_losses(
    data: Dataset, adapter: Adapter | None = None, skipped: Collection[int] = (), **model: Any
) -> list[float]:
    """The losses of the oracle."""
    return plain_training(data, STEPS, adapter, skipped, **model).losses


def plain_training(
    data: Dataset,
    steps: int,
    adapter: Adapter | None = None,
    skipped: Collection[int] = (),
    after_step: Callable[[Any], None] = lambda _: None,
    **model: Any,
) -> Plain:
    """The oracle: no sharding, no accumulation, one row at a time without padding; torch's own clipping.

    `skipped`: steps, from 0, that are left out; their loss is not a number. `after_step` gets the model.
    """
    tiny = tiny_model(adapter, **model)
    spec = training()
    trained = {name: p for name, p in tiny.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained.values() if p.ndim >= 2], "weight_decay": spec.weight_decay},
            {"params": [p for p in trained.values() if p.ndim < 2], "weight_decay": 0.0},
        ]
    )
    order = Order(data.lengths, Course.of(spec, len(data)), spec.seed)
    result = Plain()
    for step in range(steps):
        if step in skipped:
            result.losses.append(math.nan)
            continue
        factor = learning_rate_factor("cosine", step, steps, spec.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * factor
        loss = plain_loss(tiny, data, order.batch(step))
        loss.backward()  # type: ignore[no-untyped-call]
        result.losses.append(loss.item())
        result.gradients.append({name: p.grad.clone() for name, p in trained.items() if p.grad is not None})
        torch.nn.utils.clip_grad_norm_(trained.values(), spec.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        after_step(tiny)
    result.weights.update({name: p.detach() for name, p in tiny.named_parameters()})
    return result


def plain_loss(model: Any, data: Dataset, rows: Any) -> torch.Tensor:
    """The mean loss per token that counts, one row of one sequence at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        documents = data.segments(row).tolist()
        parts = (torch.split(torch.tensor(tokens(row)).long(), documents) for tokens in (data.ids, data.labels))
        for ids, labels in zip(*parts, strict=True):
            logits = model(ids[None], use_cache=False).logits[0, :-1]
            total = total + functional.cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="sum")
    return total / int(data.trained[rows].sum())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder where every case of this run has run, on four ranks, then on two, then on one."""
    folder = tmp_path_factory.mktemp("exactness")
    dataset(folder)
    packed_dataset(folder / "packed")
    cases = CASES if runs(request.config, "exactness") else [case for case in CASES if case["name"] in MAIN]
    (folder / "cases.json").write_text(json.dumps(cases))
    run_script("sharded_run.py", folder, timeout=2300)
    return folder


def losses(folder: Path, name: str) -> list[float]:
    return list(json.loads((folder / f"{name}.json").read_text()))


def error(found: Tensors, expected: Tensors) -> float:
    """The largest relative difference of a tensor. Equal tensors have 0, and so have those that are 0 in both."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - tensor).abs().max() / tensor.abs().max().clamp_min(torch.finfo(tensor.dtype).tiny))
        for name, tensor in ((name, tensor.to(torch.float64)) for name, tensor in expected.items())
    )


@pytest.mark.parametrize("name", sweep("exactness", RECORDED, main=MAIN_RECORDED))
def test_four_ranks_have_the_losses_gradients_and_weights_of_one_plain_process(folder: Path, name: str) -> None:
    case = RECORDED[name]
    same_as_plain(folder, name, plain_training(Dataset(folder / FILE), 10, adapter_of(case), **case.get("model", {})))


def same_as_plain(folder: Path, name: str, expected: Plain, without_gradient: str | None = None) -> None:
    """Compare losses, the gradients of each step, and the weights at the end.

    `without_gradient`: the end of the names of weights that are 0, as are their gradients, but for rounding.
    """
    found = torch.load(folder / f"{name}.pt")
    if without_gradient is not None:
        for tensors in (*found["gradients"], *expected.gradients, found["weights"], expected.weights):
            drop_zeros(tensors, without_gradient)
    assert losses(folder, name) == pytest.approx(expected.losses, rel=1e-12)
    assert len(found["gradients"]) == len(expected.gradients)
    for tensors in (*found["gradients"], found["weights"]):
        drop_copies(tensors, expected.weights)
    assert max(map(error, found["gradients"], expected.gradients)) < 1e-12
    assert error(found["weights"], expected.weights) < 1e-10


@pytest.mark.long("exactness")
@pytest.mark.parametrize("name", SHARDS)
def test_shards_of_each_type_give_the_losses_gradients_and_weights_of_one_plain_process(
    folder: Path, name: str
) -> None:
    model = SHARDS[name]["model"]
    expected = plain_training(Dataset(folder / FILE), STEPS, **model)
    same_as_plain(folder, name, expected, WITHOUT_GRADIENT.get(model["model_type"]))


ARRANGED = ("plain", "two layers a unit", "one unit", "accumulated", "reduced each time", "in chunks", "recomputed")


@pytest.mark.parametrize(
    "name", sweep("exactness", ARRANGED, main=("plain", "accumulated", "reduced each time", "in chunks"))
)
def test_two_ranks_give_the_losses_of_one_plain_process(folder: Path, name: str) -> None:
    assert losses(folder, name) == pytest.approx(plain_losses(Dataset(folder / FILE)), abs=1e-9)


@pytest.mark.parametrize("name", sweep("exactness", SPLIT, main=MAIN_SPLIT))
def test_matrices_split_over_ranks_give_the_losses_of_one_plain_process(folder: Path, name: str) -> None:
    expected = plain_losses(Dataset(folder / FILE), **SPLIT[name].get("model", {}))
    assert losses(folder, name) == pytest.approx(expected, abs=1e-9)


@pytest.mark.long("exactness")
@pytest.mark.parametrize("name", PLANNED)
def test_types_split_by_our_plans_give_the_losses_gradients_and_weights_of_one_plain_process(
    folder: Path, name: str
) -> None:
    case = PLANNED[name]
    same_as_plain(folder, name, plain_training(Dataset(folder / FILE), STEPS, adapter_of(case), **case["model"]))


@pytest.mark.parametrize("name", sweep("exactness", PACKED, main=MAIN_PACKED))
def test_packed_rows_over_ranks_give_the_losses_of_rows_alone(folder: Path, name: str) -> None:
    case = PACKED[name]
    adapter = adapter_of(case)
    expected = plain_losses(Dataset(folder / "packed" / FILE), adapter, **case.get("model", {}))
    assert losses(folder, name) == pytest.approx(expected, abs=1e-9)


def drop_copies(tensors: Tensors, known: Collection[str]) -> None:
    """Remove the last stage's copy of tied embeddings, which plain training has not. It equals the first stage's."""
    for copy in [name for name in tensors if name not in known]:
        embeddings = next(name for name in known if "embed" in name)
        assert torch.equal(tensors.pop(copy), tensors[embeddings])


def drop_zeros(tensors: Tensors, end: str) -> None:
    """Remove the tensors that are 0 but for rounding: those whose names end like this."""
    names = [name for name in tensors if name.endswith(end)]
    assert names
    assert all(tensors.pop(name).abs().max() < 1e-12 for name in names)


@pytest.mark.parametrize("name", sweep("exactness", STAGED, main=MAIN_STAGED))
def test_stages_of_a_pipeline_give_the_losses_gradients_and_weights_of_one_plain_process(
    folder: Path, name: str
) -> None:
    case = STAGED[name]
    data = Dataset(folder / case.get("data", "") / FILE)
    expected = plain_training(data, steps_of(case), adapter_of(case), **case.get("model", {}))
    same_as_plain(folder, name, expected)


@pytest.mark.parametrize("name", sweep("exactness", SHARED, main=MAIN_SHARED))
def test_workers_that_share_the_tokens_of_rows_give_the_losses_of_one_plain_process(folder: Path, name: str) -> None:
    case = SHARED[name]
    adapter = Adapter(type="lora", r=4) if case.get("lora") else None
    expected = plain_losses(Dataset(folder / case.get("data", "") / FILE), adapter, **case.get("model", {}))
    assert losses(folder, name) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "name", sweep("exactness", ("split resumed staged", "staged resumed in shards"), main=("split resumed staged",))
)
def test_a_killed_run_goes_on_with_or_without_stages(folder: Path, name: str) -> None:
    assert losses(folder, name) == pytest.approx(losses(folder, "plain")[2:], abs=1e-9)


def test_adapters_stay_synchronised(folder: Path) -> None:
    expected = plain_losses(Dataset(folder / FILE), Adapter(type="lora", r=4))
    assert losses(folder, "lora") == pytest.approx(expected, abs=1e-9)


def test_a_killed_run_goes_on_from_its_checkpoint_on_fewer_ranks_as_if_nothing_had_been(folder: Path) -> None:
    uninterrupted = losses(folder, "plain")
    assert losses(folder, "killed") == pytest.approx(uninterrupted[:3], abs=1e-9)
    # Killed after step 3, the last checkpoint is that of step 2: step 3 is repeated, and two more follow.
    assert losses(folder, "resumed") == pytest.approx(uninterrupted[2:], abs=1e-9)


def test_all_ranks_fall_back_on_the_checkpoint_before_one_that_a_single_rank_cannot_read(folder: Path) -> None:
    # Left with the checkpoints of steps 2 and 4. Then rank 1's file of step 4 is cut short.
    assert losses(folder, "fallen back") == pytest.approx(losses(folder, "plain")[2:], abs=1e-9)
    assert sorted(path.name for path in (folder / "cut").glob("step-*")) == [
        "step-00000002-0000-test",
        "step-00000004-0000-test",
    ]


def test_all_ranks_write_a_checkpoint_at_the_step_where_one_of_them_has_to_stop(folder: Path) -> None:
    assert [path.parent.name for path in (folder / "drained").glob("step-*/complete.json")] == [
        "step-00000002-0000-test"
    ]
    assert losses(folder, "sigterm") == pytest.approx(losses(folder, "plain")[:4], abs=1e-9)
    assert losses(folder, "drained") == pytest.approx(losses(folder, "plain")[2:], abs=1e-9)


GONE_ON = (
    "split resumed in shards",
    "shards resumed split",
    "replicas resumed in shards",
    "shared resumed in shards",
)


@pytest.mark.long("exactness")
@pytest.mark.parametrize("name", GONE_ON)
def test_a_killed_run_goes_on_with_another_mesh(folder: Path, name: str) -> None:
    assert losses(folder, name) == pytest.approx(losses(folder, "plain")[2:], abs=1e-9)


@pytest.mark.long("exactness")
def test_adapters_go_on_with_another_mesh(folder: Path) -> None:
    assert losses(folder, "adapters resumed") == pytest.approx(losses(folder, "lora")[2:], abs=1e-9)


@pytest.mark.long("exactness")
def test_osf_goes_on_with_the_cut_of_its_checkpoint(folder: Path) -> None:
    expected = plain_losses(Dataset(folder / FILE), adapter_of({"osf": True}))
    assert losses(folder, "osf killed") == pytest.approx(expected[:3], abs=1e-9)
    assert losses(folder, "osf resumed") == pytest.approx(expected[2:], abs=1e-9)


@pytest.mark.long("exactness")
def test_an_adapter_of_rounded_matrices_goes_on_from_its_checkpoint(folder: Path) -> None:
    expected = plain_losses(Dataset(folder / FILE), adapter_of(QLORA))
    assert losses(folder, "4 bits killed") == pytest.approx(expected[:3], abs=1e-9)
    assert losses(folder, "4 bits resumed") == pytest.approx(expected[2:], abs=1e-9)


@pytest.mark.long("exactness")
def test_dropout_is_the_same_after_a_restart_and_differs_from_step_to_step(folder: Path) -> None:
    uninterrupted = losses(folder, "dropout")
    assert losses(folder, "dropout killed") == pytest.approx(uninterrupted[:3], abs=1e-9)
    assert losses(folder, "dropout resumed") == pytest.approx(uninterrupted[2:], abs=1e-9)
    assert uninterrupted != pytest.approx(losses(folder, "lora"), abs=1e-6)
    seeds = {seed_of(0, step, rank) for step in range(50) for rank in range(4)}
    assert len(seeds) == 200
