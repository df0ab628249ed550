"""The adapter of a sharded model: which weights it changes, and its folder if it is a version alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from driftloop.contract.manifest import ManifestEntry
from driftloop.contract.modelfolder import ADAPTER_BASE, ADAPTER_WEIGHTS, AdaptedWeight, AdapterBase
from driftloop_trainer.models import plain_name
from driftloop_trainer.nf4 import matrices
from driftloop_trainer.osf import osf_layers
from driftloop_trainer.train.worker.loading import ShardedModel, is_adapter
from driftloop_trainer.train.worker.mesh import Mesh


@dataclass(frozen=True)
class Adapted:
    """The adapter of a frozen weight: the names of its two matrices, and the factor of their product."""

    inner: str
    outer: str
    scaling: float
    transposed: bool


def adapted_weights(model: nn.Module) -> dict[str, Adapted] | None:
    """The adapters by the names of their weights, or None if any adapter is not that of a linear layer."""
    if osf_layers(model) or not any(is_adapter(name) for name, _ in model.named_parameters()):
        return {}
    from peft.tuners.lora import Linear, LoraLayer  # slow to import, and only LoRA needs it

    adapters = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            inner, outer = (f"{name}.{matrix}.default.weight" for matrix in ("lora_A", "lora_B"))
            scaling = float(module.scaling["default"])
            adapters[f"{name}.base_layer.weight"] = Adapted(inner, outer, scaling, bool(module.fan_in_fan_out))
        elif isinstance(module, LoraLayer):
            return None
    return adapters


@dataclass(frozen=True)
class Base:
    """The model that an adapter was trained on: its folder, its files with weights, and the type of merged weights."""

    uri: str
    files: tuple[ManifestEntry, ...]
    dtype: str


@dataclass(frozen=True)
class _Part:
    """The adapters of a stage: their matrices by the names in the file, and the weights that they change."""

    matrices: dict[str, torch.Tensor]
    weights: dict[str, AdaptedWeight]
    in_4_bits: list[str]
    scalings: set[float]


def write_adapter(sharded: ShardedModel, base: Base, folder: Path) -> None:
    """Write the adapter into rank 0's `folder` as PEFT does, and beside it what it was trained on. Every rank calls it.

    Its matrices are in float32, as they were trained.
    """
    parts = _of_all_stages(sharded.mesh, _part(sharded))
    if dist.get_rank() != 0:
        return
    weights = {name: weight for part in parts for name, weight in part.weights.items()}
    (scaling,) = {scaling for part in parts for scaling in part.scalings}
    known = AdapterBase(
        uri=base.uri,
        files=list(base.files),
        dtype=base.dtype,
        scaling=scaling,
        weights=dict(sorted(weights.items())),
        in_4_bits=sorted(name for part in parts for name in part.in_4_bits),
    )
    (folder / ADAPTER_BASE).write_text(known.model_dump_json(by_alias=True, indent=1) + "\n")
    tensors = {name: matrix for part in parts for name, matrix in part.matrices.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    _write_config(sharded.model, base.uri, any(weight.transposed for weight in weights.values()), folder)


def _part(sharded: ShardedModel) -> _Part:
    """The adapters of this worker's stage. Every rank calls it."""
    adapted, stored = adapted_weights(sharded.model), sharded.stored
    if stored is None or not adapted:  # prepare refuses such a model
        raise RuntimeError("an adapter of this model can't be a version alone: set output.mergeAdapter to true")
    trained = sharded.model.state_dict(keep_vars=True)
    names = [name for layer in adapted.values() for name in (layer.inner, layer.outer)]
    return _Part(
        {name.replace(".default.", "."): whole(trained[name]).float().cpu().contiguous() for name in names},
        {
            stored[name].name: AdaptedWeight(
                module=plain_name(name).removesuffix(".weight"), transposed=layer.transposed
            )
            for name, layer in adapted.items()
        },
        [stored[name].name for name in matrices(sharded.model)],
        {layer.scaling for layer in adapted.values()},
    )


def _of_all_stages(mesh: Mesh, part: _Part) -> list[_Part]:
    """The parts of all stages, on rank 0. Every rank calls it."""
    if mesh.pipeline is None:
        return [part]
    first = dist.get_rank() % (dist.get_world_size() // mesh.stages) == 0
    gathered: list[_Part | None] = [None] * mesh.stages
    dist.all_gather_object(gathered, part if first else None, group=mesh.pipeline.get_group())
    return [each for each in gathered if each is not None]


def _write_config(model: Any, base: str, transposed: bool, folder: Path) -> None:
    """Write PEFT's configuration, which names the base as PEFT looks for it: by repository and revision, or by URI."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = base
    if base.startswith("hf://"):
        config.base_model_name_or_path, _, revision = base.removeprefix("hf://").partition("@")
        config.revision = revision or None
    config.fan_in_fan_out, config.inference_mode = transposed, True
    config.target_modules = sorted(config.target_modules)  # a set has another order in each process
    config.save_pretrained(folder)


def whole(weight: torch.Tensor) -> torch.Tensor:
    """A weight that may be sharded, on every rank. Every rank calls it."""
    return weight.full_tensor().detach() if isinstance(weight, DTensor) else weight.detach()
