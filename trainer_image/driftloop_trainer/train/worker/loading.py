"""A model that is sharded before it has weights: no process ever holds the whole model.

The model is created and sharded on the meta device, where weights take no memory. Then each worker reads its own slices
of the files, also of experts that are stored one by one and stacked in the model. There is one exception:
architectures whose weights transformers rearranges in another way. Rank 0 loads these models whole on its CPU and sends
each worker its shards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.tensor import DTensor, distribute_tensor

from driftloop.api.finetunejob import Adapter, TrainingSpec
from driftloop.podlib.tensors import model_tensors
from driftloop_trainer.compiler import compiles
from driftloop_trainer.models import decoder_layers, load_config, load_model, plain_name, with_adapter
from driftloop_trainer.nf4 import matrices, quantise
from driftloop_trainer.osf import decomposed, osf_layers
from driftloop_trainer.train.worker.float8 import use_float8
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.reader import WeightsReader
from driftloop_trainer.train.worker.seeds import seed_of
from driftloop_trainer.train.worker.sharding import shard
from driftloop_trainer.train.worker.stages import check_stages
from driftloop_trainer.weights import Stored, meta_model, stored_weights, tied_names
from driftloop_trainer.wholemodel import with_weights


@dataclass(frozen=True)
class ShardedModel:
    """A model over all ranks, and where its weights came from.

    `model`: with a pipeline, this worker's stage. `stored`: the base model's weights in its files, by their names in
    `model`. None if transformers rearranges the weights of this architecture.
    """

    model: Any
    stored: dict[str, Stored] | None
    mesh: Mesh


def load_sharded(
    folder: Path, uri: str, training: TrainingSpec, mesh: Mesh, device: torch.device, bases: Sequence[str] = ()
) -> ShardedModel:
    """The model at `uri` as `training` trains it, sharded over `mesh`. Every rank calls it.

    `folder` has the model's small files; the weights are read from `uri` and, if it is an adapter, from its `bases`.
    Raises StageFailure, StorageError and ManifestError.
    """
    bare = empty_model(folder, training)
    weights = stored_weights(bare, model_tensors(uri, bases))
    first_names = {name: first for first, *others in tied_names(bare) for name in (first, *others)}
    model = with_adapter(bare, training.adapter)
    check_stages(model, mesh.stages)
    if training.adapter.type == "qlora":
        quantise(decoder_layers(model))
    if training.float8:
        use_float8(decoder_layers(model), emulate=device.type == "cpu")  # only in tests: `work` refuses a CPU
    buffers = {name: buffer.to(device) for name, buffer in model.named_buffers()}
    shard(
        model,
        mesh,
        bf16=bool(training.bf16),
        gradient_checkpointing=training.gradient_checkpointing,
        backend="inductor" if compiles(training) else None,
    )
    model.to_empty(device=device)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    if weights is None:
        stored = None
        _receive(model, folder, uri, bases)
    else:
        names = [*(name for name, *_ in tied_names(model)), *matrices(model)]
        firsts = {name: first_names.get(plain_name(name)) for name in names}
        stored = {name: weights[first] for name, first in firsts.items() if first in weights}
        _read(model, stored)
    _start_adapters(model, training.seed)
    _start_osf(model)
    return ShardedModel(model, stored, mesh)


def empty_model(folder: Path, training: TrainingSpec) -> Any:
    """The model without memory for its weights; its buffers are on the CPU, with their values.

    Trained weights are in float32. Frozen weights of LoRA are in bfloat16 if the computation is in bfloat16.
    """
    half = training.bf16 and training.adapter.type in ("lora", "qlora")
    model = meta_model(load_config(folder), torch.bfloat16 if half else torch.float32)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty_like(buffer, device="cpu")
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # so that transformers only computes the buffers
    model.initialize_weights()  # for example rotary frequencies, which no file contains
    return model


def _read(model: nn.Module, stored: dict[str, Stored]) -> None:
    """Fill each rank's shards from the files."""
    weights, in_4_bits = model.state_dict(keep_vars=True), matrices(model)
    for name, module in in_4_bits.items():
        module.read(stored[name])
    wanted = {tensor.name: weights[name].detach() for name, tensor in stored.items() if name not in in_4_bits}
    load_state(wanted, storage_reader=WeightsReader({tensor.name: tensor for tensor in stored.values()}))


def _receive(model: nn.Module, folder: Path, uri: str, bases: Sequence[str]) -> None:
    """Fill each rank's shards from rank 0, which loads the whole model on its CPU."""
    whole: dict[str, torch.Tensor] = {}
    if dist.get_rank() == 0:
        with with_weights(folder, uri, bases) as files:
            whole = load_model(files, Adapter()).state_dict()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if is_adapter(name):
            continue
        full = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        if whole:
            full.copy_(whole[plain_name(name)])
        place(full, tensor, source=0)


def _start_adapters(model: nn.Module, seed: int) -> None:
    """Initialise adapters as PEFT does, equally for any grid of workers. Their output is 0, the inner matrix is random.

    https://huggingface.co/docs/peft/developer_guides/lora#initialization
    """
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            full = torch.zeros(parameter.shape)
            random = torch.Generator().manual_seed(seed_of(seed, name))
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(full, a=math.sqrt(5), generator=random)
            elif ".lora_embedding_B." in name:
                nn.init.normal_(full, generator=random)
            place(full.to(parameter.device), parameter, source=None)


def _start_osf(model: nn.Module) -> None:
    """Cut the weights into the part that is frozen and the one that is trained. Each rank computes some of them."""
    for number, layer in enumerate(osf_layers(model).values()):
        owner, weight = number % dist.get_world_size(), layer.base_layer.weight.detach()
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        mine = decomposed(whole, layer.kept) if dist.get_rank() == owner else None
        for place_, parameter in enumerate(layer.parts()):
            part = mine[place_] if mine else torch.empty(parameter.shape, dtype=whole.dtype, device=whole.device)
            dist.broadcast(part, owner)
            place(part, parameter, source=None)


def place(full: torch.Tensor, target: torch.Tensor, source: int | None) -> None:
    """Copy a whole tensor into a sharded or plain one. `source`: the rank that has it, or None if all ranks have it."""
    if isinstance(target, DTensor):
        placed = distribute_tensor(full, target.device_mesh, target.placements, src_data_rank=source)
        target.to_local().detach().copy_(placed.to_local())
        return
    if source is not None:
        dist.broadcast(full, source)
    target.detach().copy_(full)


def is_adapter(name: str) -> bool:
    """Whether a parameter with this name is an adapter's."""
    return ".lora_" in name or ".osf_" in name
