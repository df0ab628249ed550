"""Shard a model over the workers: it is cut into stages, its matrices are split, and FSDP2 shards it.

FSDP2 gets units of a few decoder layers of one stage, and one unit for the rest.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from driftloop_trainer.models import decoder_layers
from driftloop_trainer.train.worker.compiled import compile_layers
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.stages import keep_stages, own_layers
from driftloop_trainer.train.worker.tensor import split

UNIT_BYTES = 16 * 1024 * 1024  # each unit is one exchange, and for smaller units latency would dominate


def shard(
    model: Any,
    mesh: Mesh,
    *,
    bf16: bool,
    gradient_checkpointing: bool,
    unit_bytes: int = UNIT_BYTES,
    backend: str | None = None,
) -> Any:
    """Shard `model` in place over `mesh` and return it. `backend`: what compiles its layers; None if nothing does.

    The model must have its adapters already. Adapters that are added later are not synchronised, without an error.
    """
    if mesh.pipeline is not None:
        keep_stages(model, mesh.own_stages, mesh.stages)
    if mesh.tensor is not None:
        split(model, mesh.tensor)
    if gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    precision = half if bf16 else MixedPrecisionPolicy()
    parts = [decoder_layers(model)] if mesh.pipeline is None else own_layers(model, mesh.own_stages, mesh.stages)
    if backend is not None:
        compile_layers(model, backend)
    for layers in parts:
        for unit in units([sum(p.nbytes for p in layer.parameters()) for layer in layers], unit_bytes):
            fully_shard([layers[number] for number in unit], mesh=mesh.data, mp_policy=precision)
    fully_shard(model, mesh=mesh.data, mp_policy=precision)
    return model


def units(sizes: Sequence[int], least: int) -> list[list[int]]:
    """Groups of adjacent layers with at least `least` bytes each. Layers left at the end belong to no group. Pure.

    A model of 1.1M parameters and four layers needs 3 exchanges per step as one unit, and 15 with one unit per layer.
    """
    groups: list[list[int]] = []
    current: list[int] = []
    for number in range(len(sizes)):
        current.append(number)
        if sum(sizes[n] for n in current) >= least:
            groups.append(current)
            current = []
    return groups
