"""Linear layers whose frozen matrices have 4 bits (podlib/nf4.py)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.nn import functional

from driftloop.podlib.nf4 import byte_values, dequantised, quantised
from driftloop_trainer.weights import Stored

_AT_A_TIME = 1 << 24  # numbers that are quantised at a time; it takes some 20 bytes for each


class Nf4Linear(nn.Module):
    """A linear layer with a frozen matrix of 4 bits. It takes the place of an nn.Linear.

    `packed`: two numbers per byte, (outputs, bytes of a row). `scales`: (outputs, blocks of a row), bfloat16.
    """

    pairs: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """With the values of `linear`, unless it has none yet: see `read`."""
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        numbers = quantised(linear.weight.detach())
        self.packed, self.scales = (nn.Parameter(values, requires_grad=False) for values in numbers)
        self.register_buffer("pairs", byte_values(), persistent=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """As nn.Linear."""
        product: torch.Tensor = _Product.apply(states, self.packed, self.scales, self.pairs)
        return product if self.bias is None else product + self.bias

    def read(self, stored: Stored) -> None:
        """Quantise this worker's rows of a matrix in files. Raises StorageError."""
        first, count = _rows(self.packed)
        at_once = max(1, _AT_A_TIME // self.in_features)
        for start in range(0, count, at_once):
            part = slice(start, min(start + at_once, count))
            numbers = quantised(stored.rows(first + start, part.stop - start))
            for parameter, values in zip((self.packed, self.scales), numbers, strict=True):
                _local(parameter)[part].copy_(values)

    def whole(self, wanted: bool) -> torch.Tensor | None:
        """The matrix that the layer multiplies with, in float32 on the CPU, if it is wanted. Every rank calls it."""
        packed, scales = (_whole(parameter) for parameter in (self.packed, self.scales))
        if not wanted:
            return None
        return dequantised(packed.cpu(), scales.cpu(), self.pairs.cpu(), self.in_features)


class _Product(torch.autograd.Function):
    """The product with a matrix of 4 bits, which exists in more bits only while it is multiplied with."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, pairs: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(packed, scales, pairs)
        ctx.columns = states.shape[-1]
        return functional.linear(states, dequantised(packed, scales, pairs, ctx.columns, states.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        packed, scales, pairs = ctx.saved_tensors
        matrix = dequantised(packed, scales, pairs, ctx.columns, gradient.dtype)
        return gradient @ matrix, None, None, None


def quantise(layers: Iterable[nn.Module]) -> None:
    """Give the frozen linear layers in these decoder layers matrices of 4 bits."""
    for parent in [module for layer in layers for module in layer.modules()]:
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and not child.weight.requires_grad:
                setattr(parent, name, Nf4Linear(child))


def linear_parameters(layers: Iterable[nn.Module]) -> int:
    """The number of elements of the matrices of the linear layers in these decoder layers, without adapters."""
    modules = (module for layer in layers for module in layer.modules())
    return sum(module.weight.numel() for module in modules if isinstance(module, nn.Linear))


def matrices(model: nn.Module) -> dict[str, Nf4Linear]:
    """The layers with matrices of 4 bits, by the names that their matrices had before."""
    return {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Nf4Linear)}


def _rows(parameter: torch.Tensor) -> tuple[int, int]:
    """The first of this worker's rows, and their number."""
    if not isinstance(parameter, DTensor):
        return 0, parameter.shape[0]
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return offset[0], shape[0]


def _local(parameter: torch.Tensor) -> torch.Tensor:
    return (parameter.to_local() if isinstance(parameter, DTensor) else parameter).detach()


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    return (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach()
