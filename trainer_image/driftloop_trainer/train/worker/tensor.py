"""Split the matrices of each layer over the workers of a mesh's row, by the plan in transformers' configuration.

Every parameter becomes a tensor of the whole mesh: what is not split is replicated, so the optimizer, the gradient norm
and the checkpoint treat all parameters alike. Split exactly: see test_exactness.py for the types of models.

An adapter adds the product of two small matrices to a matrix. The matrix that is on the side where the large one is
split is split too, and the other one is replicated: both have the adapter's rank on their other side.
"""

import re
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional

from driftloop_trainer.models import plain_name
from driftloop_trainer.tensorplan import planned_kinds, starred
from driftloop_trainer.weights import tied_names


class Replicated(ParallelStyle):
    """A module that every worker of a row has and computes whole."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        # torch uses what the input function returns, although its type says None.
        return distribute_module(module, device_mesh, None, _to_replicated, _to_local)  # type: ignore[arg-type]


def _to_replicated(_: nn.Module, inputs: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
    return tuple(DTensor.from_local(tensor, mesh, [Replicate()], run_check=False) for tensor in inputs)


def _to_local(_: nn.Module, output: Any, __: DeviceMesh) -> Any:
    return output.to_local()


class SplitHead(ParallelStyle):
    """An output layer that is split in rows of the vocabulary, and returns whole logits.

    They are gathered in its forward pass itself, not in a hook of torch's, because the loss calls it for some tokens
    at a time.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name, parameter in list(module.named_parameters(recurse=False)):
            part = distribute_tensor(parameter, device_mesh, [Shard(0)], src_data_rank=self.src_data_rank)
            module.register_parameter(name, nn.Parameter(part))
        forward = module.forward

        def gathered(hidden: torch.Tensor) -> torch.Tensor:
            (states,) = _to_replicated(module, (hidden,), device_mesh)
            logits: DTensor = forward(states)
            return logits.redistribute(placements=[Replicate()]).to_local()

        module.forward = gathered
        return module


class SplitEmbeddingAdapter(ParallelStyle):
    """PEFT's adapter of an embedding: its first matrix is split over the vocabulary, the second one is replicated."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        layer: Any = module
        for matrices, placement in ((layer.lora_embedding_A, Shard(1)), (layer.lora_embedding_B, Replicate())):
            for name, matrix in matrices.items():
                matrices[name] = nn.Parameter(distribute_tensor(matrix, device_mesh, [placement], src_data_rank=None))

        def forward(ids: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = layer.base_layer(ids)
            (everywhere,) = _to_replicated(module, (ids,), device_mesh)
            for name in layer.active_adapters:
                rows: Any = functional.embedding(everywhere, layer.lora_embedding_A[name].T)
                change = rows.redistribute(placements=[Replicate()]) @ layer.lora_embedding_B[name].T
                states = states + (change.to_local() * layer.scaling[name]).to(states.dtype)
            return states

        module.forward = forward
        return module


def style(kind: str) -> ParallelStyle:
    """The style of a kind of module in transformers' plans, or ours. Raises KeyError if it is not known to be exact."""
    return {
        "colwise": ColwiseParallel(),
        "rowwise": RowwiseParallel(),
        # A norm of each head: its weight is whole, its input has this worker's heads in dimension 2.
        "replicated_with_grad_allreduce": SequenceParallel(sequence_dim=2, use_local_output=True),
        "tokens": RowwiseParallel(input_layouts=Replicate()),
        "head": SplitHead(),
        "replicated": Replicated(),
    }[kind]


# The kinds of an adapter's matrices that are split, by matrix and kind of the adapted weight. Others are replicated.
_ADAPTERS = {("A", "rowwise"): "rowwise", ("B", "colwise"): "colwise", ("B", "head"): "head"}


def split(model: Any, mesh: DeviceMesh) -> None:
    """Split `model` in place over `mesh`, on the meta device or with the same weights on every rank."""
    tokens, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = any(len(names) > 1 for names in tied_names(model))
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    parallelize_module(model, mesh, styles(model), src_data_rank=None)
    if tied:
        getattr(head, "base_layer", head).weight = tokens.weight
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained[name])  # SequenceParallel forgets it (not reported)


def styles(model: Any) -> dict[str, ParallelStyle]:
    """The style of each module that has parameters of its own: the vocabulary is split too, in rows of the matrix."""
    kinds = _planned(model)
    by_name: dict[str, ParallelStyle] = {}
    for name, module in model.named_modules():
        if not list(module.parameters(recurse=False)):
            continue
        if isinstance(module, nn.ParameterDict):  # one of the two of an embedding's adapter
            by_name[name.rpartition(".")[0]] = SplitEmbeddingAdapter()
        else:
            by_name[name] = style(_kind(kinds, name))
    return by_name


def _planned(model: Any) -> dict[str, str]:
    """The kinds of the bare model's modules that are split, by name, with `*` for the number of a layer."""
    vocabulary = {"tokens": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    names = {id(module): plain_name(name) for name, module in model.named_modules()}
    return planned_kinds(model) | {names[id(module)]: kind for kind, module in vocabulary.items()}


def _kind(kinds: dict[str, str], name: str) -> str:
    key = starred(plain_name(name))
    adapter = re.fullmatch(r"(.+)\.lora_([AB])\.\w+", key)
    if adapter is None:
        return kinds.get(key, "replicated")
    base, matrix = adapter.groups()
    return _ADAPTERS.get((matrix, kinds.get(base, "replicated")), "replicated")
