"""Matrices of 4 bits: each number is the nearest of 16, and a linear layer computes with exactly these."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from driftloop.api.finetunejob import Adapter
from driftloop.podlib.nf4 import BLOCK, VALUES, dequantised, quantised, rounded
from driftloop_trainer.models import decoder_layers, with_adapter
from driftloop_trainer.nf4 import Nf4Linear, linear_parameters, matrices, quantise
from unit.trainer.test_osf import tiny

PAIRS = Nf4Linear(nn.Linear(1, 1)).pairs


@pytest.mark.parametrize("columns", [BLOCK, 3 * BLOCK, BLOCK + 1, 5])
def test_each_number_is_the_nearest_of_the_values_times_the_largest_of_its_block(columns: int) -> None:
    matrix = torch.randn(7, columns, generator=torch.Generator().manual_seed(0))
    found = rounded(matrix)
    for start in range(0, columns, BLOCK):
        block = matrix[:, start : start + BLOCK]
        scale = block.abs().amax(1, keepdim=True).bfloat16().float()
        choices = scale[..., None] * torch.tensor(VALUES)
        nearest = (block[..., None] - choices).abs().amin(-1)
        assert torch.allclose((block - found[:, start : start + BLOCK]).abs(), nearest, atol=1e-6)


def test_what_was_rounded_once_stays_and_zeros_stay_zeros() -> None:
    matrix = torch.randn(4, 2 * BLOCK, generator=torch.Generator().manual_seed(0))
    matrix[1] = 0
    once = rounded(matrix)
    assert torch.equal(rounded(once), once)
    assert not once[1].any()


def test_a_number_takes_a_little_more_than_4_bits() -> None:
    assert sum(numbers.nbytes for numbers in quantised(torch.randn(64, 1024))) * 8 == 64 * 1024 * 4.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_layer_is_a_linear_one_with_the_rounded_matrix(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(100, 30)
    layer = Nf4Linear(linear)
    layer.bias.data = layer.bias.data.to(dtype)
    states = torch.randn(2, 5, 100, dtype=dtype, requires_grad=True)
    packed, scales = layer.packed, layer.scales
    output = layer(states)
    expected = functional.linear(states, dequantised(packed, scales, PAIRS, 100, dtype)) + linear.bias.to(dtype)
    assert torch.equal(output, expected)
    upstream = torch.randn_like(output)
    (ours,) = torch.autograd.grad(output, states, upstream)
    (theirs,) = torch.autograd.grad(expected, states, upstream)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_no_matrix_of_more_bits_is_kept_for_the_backward_pass() -> None:
    kept: list[int] = []
    layer = Nf4Linear(nn.Linear(256, 256, bias=False))

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(1, 256, requires_grad=True))
    assert sum(kept) < 256 * 256


def test_the_frozen_linear_layers_of_the_decoder_layers_are_rounded_and_nothing_else() -> None:
    model: Any = tiny()
    elements = linear_parameters(decoder_layers(model))
    expected = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"}
    model = with_adapter(model, Adapter(type="qlora", r=2, target_modules=["q_proj", "down_proj"]))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    quantise(decoder_layers(model))
    found = matrices(model)
    plain = {
        name.removeprefix("base_model.model.").replace(".base_layer", "").removesuffix(".weight") for name in found
    }
    assert plain == expected
    assert sum(layer.in_features * layer.out_features for layer in found.values()) == elements
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
