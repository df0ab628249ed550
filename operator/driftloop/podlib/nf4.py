"""NormalFloat: numbers in 4 bits, as in QLoRA (https://arxiv.org/abs/2305.14314), without double quantisation.

A row is cut into blocks of 64 numbers. A block has its largest magnitude in bfloat16, and each of its numbers the
nearest of 16 values between -1 and 1 times that. No block spans two rows, so the numbers are the same however the rows
are divided. With the magnitudes a number takes 4.25 bits.
"""

import torch
from torch.nn import functional

BLOCK = 64
# Appendix E of the paper: quantiles of a normal distribution, with 0 among them.
VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def byte_values() -> torch.Tensor:
    """The two values of each byte, (256, 2), on the CPU."""
    return torch.tensor([(high, low) for high in VALUES for low in VALUES], device="cpu")


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
    """The matrix (rows, `columns`) of packed numbers and scales. `pairs`: as `byte_values` returns them."""
    values = functional.embedding(packed.int(), pairs.to(dtype)).view(*scales.shape, BLOCK)
    return (values * scales.to(dtype)[..., None]).flatten(1)[:, :columns]


def rounded(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix on the CPU, rounded to 4 bits, in float32."""
    return dequantised(*quantised(matrix), byte_values(), matrix.shape[1])
