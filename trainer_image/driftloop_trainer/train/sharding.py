"""Spread a model over the workers: FSDP2, one unit a decoder layer and one for the rest."""

from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from driftloop_trainer.models import decoder_layers


def shard(model: Any, mesh: DeviceMesh, *, bf16: bool, gradient_checkpointing: bool) -> Any:
    """Shard `model` in place over `mesh` and return it.

    Adapters must be in place already: sharded first, they would stay unsynchronised without an error.
    """
    if gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    precision = half if bf16 else MixedPrecisionPolicy()
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(model, mesh=mesh, mp_policy=precision)
    return model
