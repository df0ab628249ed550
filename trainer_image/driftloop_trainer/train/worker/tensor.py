"""Split the matrices of each layer over the workers of a mesh's row, by the plan in transformers' configuration.

Every parameter becomes a tensor of the whole mesh: what is not split is replicated, so the optimizer, the gradient norm
and the checkpoint treat all parameters alike. Split exactly: see test_exactness.py for the types of models.
"""

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


def style(name: str) -> ParallelStyle:
    """torch's style for a name in transformers' plans. Raises KeyError for one that is not known to be exact."""
    return {
        "colwise": ColwiseParallel(),
        "rowwise": RowwiseParallel(),
        # A norm of each head: its weight is whole, its input has this worker's heads in dimension 2.
        "replicated_with_grad_allreduce": SequenceParallel(sequence_dim=2, use_local_output=True),
    }[name]


def split(model: Any, mesh: DeviceMesh) -> None:
    """Split `model` in place over `mesh`, on the meta device or with the same weights on every rank."""
    tokens, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = any(len(names) > 1 for names in tied_names(model))
    parallelize_module(model, mesh, styles(model), src_data_rank=None)
    if tied:
        head.weight = tokens.weight


def styles(model: Any) -> dict[str, ParallelStyle]:
    """The style of each module that has parameters of its own: the vocabulary is split too, in rows of the matrix."""
    planned = {f"{model.base_model_prefix}.{key}": value for key, value in model.config.base_model_tp_plan.items()}
    found: dict[str, ParallelStyle] = {}
    for name, module in model.named_modules():
        if not list(module.parameters(recurse=False)):
            continue
        key = ".".join("*" if part.isdigit() else part for part in name.split("."))
        if module is model.get_input_embeddings():
            found[name] = RowwiseParallel(input_layouts=Replicate())
        elif module is model.get_output_embeddings():
            found[name] = SplitHead()
        else:
            found[name] = style(planned[key]) if key in planned else Replicated()
    return found
