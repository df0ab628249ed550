"""Write a standard model folder: sharded safetensors, written by all ranks at the same time.

No process ever holds the whole model. Weights are gathered one by one, and kept only by the rank that writes them.
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from driftloop.contract.manifest import ManifestEntry
from driftloop.contract.modelfolder import INDEX, SINGLE
from driftloop.contract.names import WEIGHT_FILE_BYTES
from driftloop.contract.task import TrainTask
from driftloop.contract.textstats import PROFILE
from driftloop.contract.uris import join
from driftloop.podlib.storage import complete, new_file
from driftloop.podlib.templatefile import set_in_folder
from driftloop_trainer.dataset import read_turn_ends
from driftloop_trainer.models import load_config, load_model, load_tokenizer
from driftloop_trainer.nf4 import matrices
from driftloop_trainer.osf import merged, osf_layers
from driftloop_trainer.train.base import check_tokenizer
from driftloop_trainer.train.worker.adapter import Adapted, Base, adapted_weights, whole, write_adapter
from driftloop_trainer.train.worker.card import model_card
from driftloop_trainer.train.worker.curve import Curve, write_curves
from driftloop_trainer.train.worker.generation import GENERATION, end_generation
from driftloop_trainer.train.worker.loading import ShardedModel
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.weights import Stored
from driftloop_trainer.wholemodel import with_weights


@dataclass(frozen=True)
class Export:
    """The sources of the folder at `output`. `base` and `data` are local folders. The model card lists `facts`.

    `curve`: of all steps, on rank 0; without rows the version has no curves. `base_files`: of the base, with its
    weights, if the adapter is exported alone.
    """

    task: TrainTask
    base: Path
    data: Path
    facts: dict[str, Any]
    output: str
    curve: Curve = field(default_factory=Curve)
    base_files: Sequence[ManifestEntry] = ()


def export(sharded: ShardedModel, plan: Export, scratch: Path) -> str:
    """Publish the model at `plan.output`; every rank calls it. Returns the folder's digest on rank 0, else "".

    Raises StorageError, and StageFailure on rank 0 if the tokenizer has changed.
    """
    folder = scratch / "model"
    folder.mkdir()
    config = load_config(plan.base)
    config.dtype = getattr(config, "dtype", None) or torch.float32
    stored, adapted = sharded.stored, adapted_weights(sharded.model)
    entries: list[ManifestEntry] = []
    if not plan.task.merge_adapter:
        write_adapter(sharded, _base_of(plan, config.dtype), folder)
    elif stored is None or adapted is None:
        entries = _write_whole(sharded.model, plan, folder, config.dtype)
    else:
        weights = Weights(sharded.model, stored, adapted, config.dtype)
        entries = _write_files(weights, sharded.mesh, plan.output, folder)
    if dist.get_rank() != 0:
        return ""
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config.architectures = [model_class.__name__]
    config.save_pretrained(folder)
    check_tokenizer(plan.base, plan.task)
    tokenizer = load_tokenizer(plan.base, plan.task.model.uri or "model")
    tokenizer.save_pretrained(folder)
    return publish(folder, plan, tokenizer.eos_token_id, entries)


def publish(folder: Path, plan: Export, tokenizer_end: int, entries: Sequence[ManifestEntry] = ()) -> str:
    """Add the card and what serving needs to a model, and publish it at `plan.output`. Returns the folder's digest.

    `entries`: files that are there already.
    """
    training = plan.task.training
    set_in_folder(folder, training.chat_template, training.chat_template_kwargs)
    generation = plan.base / GENERATION
    if generation.exists() and not (folder / GENERATION).exists():
        shutil.copyfile(generation, folder / GENERATION)
    end_generation(folder, read_turn_ends(plan.data), tokenizer_end)
    shutil.copyfile(plan.data / PROFILE, folder / PROFILE)
    curves = write_curves(plan.curve, folder)
    (folder / "README.md").write_text(model_card(plan.task, plan.facts, curves=curves))
    for path in (path for path in folder.rglob("*") if path.is_file()):
        path.chmod(0o644)  # safetensors writes files that only their owner may read
    return complete(folder, plan.output, entries).digest


class Weights:
    """The weights of the exported model, by name: in the base model's files or, if stored in parts, in the model."""

    def __init__(
        self, model: nn.Module, stored: dict[str, Stored], adapted: dict[str, Adapted], dtype: torch.dtype
    ) -> None:
        self._weights = model.state_dict(keep_vars=True)
        self._names = {tensor.name: name for name, tensor in stored.items()}
        self._stored = stored
        self._adapted = adapted
        self._cut = {f"{name}.base_layer.weight": layer for name, layer in osf_layers(model).items()}
        self._in_4_bits = matrices(model)
        self._dtype = dtype

    def sizes(self) -> dict[str, int]:
        """Bytes of each weight as it is exported."""
        return {tensor.name: tensor.shape.numel() * self._type_of(tensor).itemsize for tensor in self._stored.values()}

    def get(self, stored_name: str, wanted: bool) -> dict[str, torch.Tensor]:
        """The whole weight on the CPU as the files have it, if it is `wanted`; else nothing. Every rank calls it.

        A frozen weight is read from the base model's file, with the precision that it has there. One of 4 bits is as
        the adapter was trained with it.
        """
        name = self._names[stored_name]
        tensor = self._stored[name]
        if name in self._in_4_bits:
            rounded, change = self._in_4_bits[name].whole(wanted), self._change(name)
            if rounded is None:
                return {}
            return self._divided(tensor, rounded if change is None else rounded + change)
        weight = self._weights[name]
        if weight.requires_grad:
            trained = whole(weight)
            return self._divided(tensor, trained) if wanted else {}
        if name in self._cut:
            trained = merged(self._cut[name], whole)
            return self._divided(tensor, trained) if wanted else {}
        change = self._change(name)
        if not wanted:
            return {}
        frozen = tensor.read()
        return self._divided(tensor, frozen if change is None else frozen.float() + change)

    def _divided(self, tensor: Stored, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return tensor.divided(weight.to("cpu", self._type_of(tensor)).contiguous())

    def _change(self, name: str) -> torch.Tensor | None:
        """The matrix that the adapter adds to a weight, in float32 on the CPU."""
        adapter = self._adapted.get(name)
        if adapter is None:
            return None
        inner, outer = (whole(self._weights[matrix]).float().cpu() for matrix in (adapter.inner, adapter.outer))
        product = outer @ inner * adapter.scaling
        return product.T if adapter.transposed else product

    def _type_of(self, tensor: Stored) -> torch.dtype:
        return self._dtype if tensor.dtype.is_floating_point else tensor.dtype


def files_of(sizes: dict[str, int], most: int, ranks: int) -> list[list[str]]:
    """The names of the weights in each file, in order. A file has up to `most` bytes, and each rank gets one or more.

    A larger weight has its own file. Pure.

    >>> files_of({"a": 3, "b": 3, "c": 3, "d": 9}, most=6, ranks=1)
    [['a', 'b'], ['c'], ['d']]
    """
    room = min(most, math.ceil(sum(sizes.values()) / ranks))
    files: list[list[str]] = []
    left = 0
    for name, size in sizes.items():
        if not files or size > left:
            files.append([])
            left = room
        files[-1].append(name)
        left -= size
    return files


def file_name(number: int, count: int) -> str:
    """The name of a weight file, as Hugging Face names them. `number` starts at 0."""
    return SINGLE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _write_files(weights: Weights, mesh: Mesh, output: str, folder: Path) -> list[ManifestEntry]:
    """Write all weight files at `output`, each rank its own, and the index into `folder`. Returns all entries.

    The ranks of a stage write the weights of their stage.
    """
    sizes = _sizes_by_stage(weights, mesh)
    ranks = dist.get_world_size() // mesh.pipeline_size
    files = [files_of(stage, WEIGHT_FILE_BYTES, ranks) for stage in sizes]
    total = sum(len(stage) for stage in files)
    before = sum(len(stage) for stage in files[: mesh.pipeline_rank])
    names = [file_name(number, total) for number in range(total)]
    rank, mine = dist.get_rank() % ranks, files[mesh.pipeline_rank]
    written: list[tuple[ManifestEntry, list[str]]] = []  # each file of this rank, and the names in it
    for first in range(0, len(mine), ranks):
        content = _gathered(weights, mine[first : first + ranks], rank)
        if content:
            entry = _write_file(content, join(output, names[before + first + rank]), folder)
            written.append((entry, list(content)))
    gathered: list[list[tuple[ManifestEntry, list[str]]]] = [[]] * dist.get_world_size()
    dist.all_gather_object(gathered, written)
    everything = [file for by_rank in gathered for file in by_rank]
    if dist.get_rank() == 0 and total > 1:
        document = {
            "metadata": {"total_size": sum(sum(stage.values()) for stage in sizes)},
            "weight_map": {name: entry.path for entry, inside in everything for name in inside},
        }
        (folder / INDEX).write_text(json.dumps(document, indent=2) + "\n")
    return [entry for entry, _ in everything]


def _base_of(plan: Export, dtype: torch.dtype) -> Base:
    return Base(plan.task.model.uri or "", tuple(plan.base_files), str(dtype).removeprefix("torch."))


def _sizes_by_stage(weights: Weights, mesh: Mesh) -> list[dict[str, int]]:
    """Bytes of the weights that each stage writes. What several stages have (tied embeddings) the first one writes."""
    sizes = [weights.sizes()]
    if mesh.pipeline is not None:
        sizes = [{}] * mesh.pipeline_size
        dist.all_gather_object(sizes, weights.sizes(), group=mesh.pipeline.get_group())
    earlier = [set(chain(*sizes[:stage])) for stage in range(len(sizes))]
    return [
        {name: size for name, size in stage.items() if name not in known}
        for stage, known in zip(sizes, earlier, strict=True)
    ]


def _gathered(weights: Weights, files: list[list[str]], rank: int) -> dict[str, torch.Tensor]:
    """The weights of the file that `rank` writes; the other ranks write the other `files`."""
    content: dict[str, torch.Tensor] = {}
    for owner, file in enumerate(files):
        for name in file:
            content |= weights.get(name, owner == rank)
    return content


def _write_file(tensors: dict[str, torch.Tensor], uri: str, scratch: Path) -> ManifestEntry:
    with new_file(uri, scratch) as path:
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(0o644)
        return ManifestEntry.of(path, uri.rpartition("/")[2])


def _write_whole(model: nn.Module, plan: Export, folder: Path, dtype: torch.dtype) -> list[ManifestEntry]:
    """Write the weights into rank 0's `folder`, for architectures that transformers loads and saves as a whole."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights: Any = get_model_state_dict(model, options=options)
    if dist.get_rank() != 0:
        return []
    with with_weights(plan.base, plan.task.model.uri or "", plan.task.model.bases) as files:
        fresh = load_model(files, plan.task.training.adapter)
    load_trained(fresh, weights)
    weights.clear()  # what is saved is written to memory: /tmp
    if plan.task.training.adapter.type != "none":
        fresh = fresh.merge_and_unload()
    fresh.to(dtype).save_pretrained(folder)
    return []


def load_trained(base: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load the trained weights into the model that the training started from. Raises RuntimeError.

    A trained weight that is missing would be published as it was before the training.
    """
    unexpected = base.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise RuntimeError(f"the base model does not have these trained weights: {unexpected[:5]}")
    names: dict[nn.Parameter, list[str]] = {}  # those of tied weights together
    for name, parameter in base.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    trained = [of_one for parameter, of_one in names.items() if parameter.requires_grad]
    if missing := [first for first, *others in trained if weights.keys().isdisjoint((first, *others))]:
        raise RuntimeError(f"the trained values of these weights are missing: {missing[:5]}")
