"""Frozen matrices in 4 bits, as in QLoRA (https://arxiv.org/abs/2305.14314): NormalFloat, without double quantisation.

A row is cut into blocks of 64 numbers. A block has its largest magnitude in bfloat16, and each of its numbers the
nearest of 16 values between -1 and 1 times that. No block spans two rows, so the numbers are the same however the rows
are sharded. With the magnitudes a number takes 4.25 bits.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.nn import functional

from driftloop_trainer.weights import Stored

BLOCK = 64
# Appendix E of the paper: quantiles of a normal distribution, with 0 among them.
VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
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
        pairs = [(high, low) for high in VALUES for low in VALUES]
        self.register_buffer("pairs", torch.tensor(pairs, device="cpu"), persistent=False)  # the two numbers of a byte

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


def quantised(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The packed numbers and the scales of a matrix (rows, columns)."""
    padded = functional.pad(matrix.float(), (0, -matrix.shape[1] % BLOCK))
    blocks = padded.view(matrix.shape[0], -1, BLOCK)
    scales = blocks.abs().amax(-1).to(torch.bfloat16)
    shares = blocks / scales.float().clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    values = torch.tensor(VALUES, device=matrix.device)
    nearest = torch.bucketize(shares, (values[1:] + values[:-1]) / 2, out_int32=True)
    numbers = nearest.to(torch.uint8).flatten(1)
    return numbers[:, 0::2] << 4 | numbers[:, 1::2], scales


def dequantised(
    packed: torch.Tensor,
    scales: torch.Tensor,
    pairs: torch.Tensor,
    columns: int,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The matrix (rows, `columns`) of packed numbers and scales. `pairs`: the two values of each byte, (256, 2)."""
    values = functional.embedding(packed.int(), pairs.to(dtype)).view(*scales.shape, BLOCK)
    return (values * scales.to(dtype)[..., None]).flatten(1)[:, :columns]


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
