"""Split the matrices of each layer over the workers of a mesh's row, by the plan of its type (tensorplan.py).

Every parameter becomes a tensor of the whole mesh: what is not split is replicated, so the optimizer, the gradient norm
and the checkpoint treat all parameters alike. Split exactly: see test_exactness.py for the types of models.

An adapter adds the product of two small matrices to a matrix. The matrix that is on the side where the large one is
split is split too, and the other one is replicated: both have the adapter's rank on their other side.
"""

import re
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_module, distribute_tensor
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
        _distribute(module, device_mesh, Shard(0))
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


class NormOfAllHeads(ParallelStyle):
    """A norm over the outputs of a matrix that is split: each worker has its part of the weights and of the input.

    The workers add up what the norm needs to know of the whole input.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _distribute(module, device_mesh, Shard(0))
        return distribute_module(module, device_mesh, None, _to_parts, _to_local)  # type: ignore[arg-type]


def _to_parts(_: nn.Module, inputs: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
    return tuple(DTensor.from_local(tensor, mesh, [Shard(-1)], run_check=False) for tensor in inputs)


class Own(ParallelStyle):
    """A module between split ones that computes its part with parameters of its own, as plain tensors.

    `placement`: of the parameters. `gradient`: what a worker's gradient of such a tensor is.
    """

    def __init__(self, placement: Placement, gradient: Placement) -> None:
        super().__init__()
        self.placement, self.gradient = placement, gradient

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _distribute(module, device_mesh, self.placement)
        forward, parameters = module.forward, module._parameters

        def with_plain(*arguments: Any, **options: Any) -> Any:
            distributed: dict[str, Any] = dict(parameters)
            plain: Any = {
                name: p.to_local(grad_placements=[self.gradient]) for name, p in distributed.items() if p is not None
            }
            parameters.update(plain)
            try:
                return forward(*arguments, **options)
            finally:
                parameters.update(distributed)

        module.forward = with_plain
        return module


class Joined(ParallelStyle):
    """A matrix whose rows are those of several matrices, one after the other. Each worker gets its part of each output.

    The matrix is split like any other, so files and checkpoints are read and written alike. Therefore the workers
    exchange columns of the output. `sizes`: of the matrices, in any unit.
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        ColwiseParallel()._apply(module, device_mesh)
        module.register_forward_hook(partial(self._exchange, device_mesh))
        return module

    def _exchange(self, mesh: DeviceMesh, _: nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        workers, rank = mesh.size(), mesh.get_local_rank()
        unit = output.shape[-1] * workers // sum(self.sizes)
        sizes = [size * unit for size in self.sizes]
        given = [overlap(sizes, workers, rank, other) for other in range(workers)]
        received = [_length(overlap(sizes, workers, other, rank)) for other in range(workers)]
        columns = output.movedim(-1, 0)
        sent = torch.cat([columns[piece] for pieces in given for piece in pieces])
        own: torch.Tensor = _Exchange.apply(sent, [*map(_length, given)], received, mesh.get_group())
        return own.movedim(0, -1).contiguous()


def overlap(sizes: Sequence[int], workers: int, owner: int, other: int) -> list[slice]:
    """The columns of `owner`, of `workers` equal parts of all, that are in a matrix's part of `other`. Pure.

    >>> overlap([8, 4, 4], workers=2, owner=0, other=1), overlap([8, 4, 4], workers=2, owner=1, other=1)
    ([slice(4, 8, None)], [slice(2, 4, None), slice(6, 8, None)])
    """
    width = sum(sizes) // workers
    pieces = []
    for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False):
        part = size // workers
        first = max(0, start + other * part - owner * width)
        end = min(width, start + (other + 1) * part - owner * width)
        if first < end:
            pieces.append(slice(first, end))
    return pieces


def _length(pieces: list[slice]) -> int:
    return sum(int(piece.stop - piece.start) for piece in pieces)


class _Exchange(torch.autograd.Function):
    """Send so many rows to each worker of the group, and receive so many. That of the gradient is the reverse."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup
    ) -> torch.Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        arrived = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(arrived, rows.contiguous(), received, sent, group=group)
        return arrived

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = gradients
        return _Exchange.apply(gradient, ctx.received, ctx.sent, ctx.group), None, None, None


class Heads(ParallelStyle):
    """An attention that takes the number of its heads from its configuration."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        attention: Any = module
        attention.config = _WithPartOfHeads(attention.config, device_mesh.size())
        attention.num_key_value_heads //= device_mesh.size()
        return module


class _WithPartOfHeads:
    """A configuration with a part of the heads. The rest is that of `config`, also what is set there later."""

    def __init__(self, config: Any, workers: int) -> None:
        self._config = config
        self.num_attention_heads = config.num_attention_heads // workers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


class Latent(ParallelStyle):
    """The matrix that makes the latents of keys and values, and the keys' part for positions, which all heads share.

    Each worker uses that part for its heads, so its gradient is the sum over the workers. `shared`: its size.
    """

    def __init__(self, shared: int) -> None:
        super().__init__()
        self.shared = shared

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        Replicated()._apply(module, device_mesh)
        module.register_forward_hook(partial(self._summed, device_mesh))
        return module

    def _summed(self, mesh: DeviceMesh, _: nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        latents, keys = output[..., : -self.shared], output[..., -self.shared :]
        same = DTensor.from_local(keys, mesh, [Replicate()], run_check=False)
        return torch.cat((latents, same.to_local(grad_placements=[Partial()])), -1)


def _distribute(module: nn.Module, mesh: DeviceMesh, placement: Placement) -> None:
    """Make the module's own parameters tensors of `mesh`."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        placed = distribute_tensor(parameter, mesh, [placement], src_data_rank=None)
        module.register_parameter(name, nn.Parameter(placed))


def style(kind: str, config: Any) -> ParallelStyle:
    """The style of a kind of module in a plan. Raises KeyError if it is not known to be exact."""
    heads, keys = config.num_attention_heads, config.num_key_value_heads
    return {
        "colwise": ColwiseParallel(),
        "rowwise": RowwiseParallel(),
        "rowwise_split_output": RowwiseParallel(output_layouts=Shard(-1)),
        # A norm of each head: its weight is whole, its input has this worker's heads in dimension 2.
        "replicated_with_grad_allreduce": SequenceParallel(sequence_dim=2, use_local_output=True),
        "norm_of_all_heads": NormOfAllHeads(),
        "split": Own(Shard(0), Shard(0)),
        "summed": Own(Replicate(), Partial()),
        "whole": Own(Replicate(), Replicate()),
        "gate_up": Joined(1, 1),
        "qkv": Joined(heads, keys, keys),
        "heads": Heads(),
        "latent": Latent(getattr(config, "qk_rope_head_dim", 0)),
        "tokens": RowwiseParallel(input_layouts=Replicate()),
        "head": SplitHead(),
        "replicated": Replicated(),
    }[kind]


# The kinds of an adapter's matrices that are split, by matrix and kind of the adapted weight. Others are replicated.
_ADAPTERS = {("A", "rowwise"): "rowwise", ("A", "rowwise_split_output"): "rowwise"} | {
    ("B", kind): kind for kind in ("colwise", "gate_up", "qkv", "latent", "head")
}


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
    """The style of each module that has parameters of its own, or counts its heads.

    The vocabulary is split too, in rows of the matrix.
    """
    kinds = _planned(model)
    by_name: dict[str, ParallelStyle] = {}
    for name, module in model.named_modules():
        kind = _kind(kinds, name)
        if not list(module.parameters(recurse=False)) and kind != "heads":
            continue
        if isinstance(module, nn.ParameterDict):  # one of the two of an embedding's adapter
            by_name[name.rpartition(".")[0]] = SplitEmbeddingAdapter()
        else:
            by_name[name] = style(kind, model.config)
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
