"""Orthogonal subspace fine-tuning (`osf`): the strongest directions of each matrix stay as they are, the others learn.

Nayak et al. 2025, https://arxiv.org/abs/2504.07097, as in PEFT's OSF: a matrix W = U S V is cut at a rank into a frozen
part and a trained one, and the gradients of the trained U and V are made orthogonal to the frozen ones.

PEFT keeps the factors from before the training as buffers, which FSDP doesn't shard, and changes gradients by hooks of
parameters, which FSDP replaces. Here all of them are parameters, the frozen part is kept as one matrix in place of the
weight, and the change of the gradients is in the backward pass, before FSDP adds them up over the workers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from driftloop.api.finetunejob import Adapter
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure

Tensor = torch.Tensor


class OsfLinear(nn.Module):
    """A linear layer of which a part is trained: `osf_u` (outputs, low), `osf_s` (low,) and `osf_v` (low, inputs).

    The weight of `base_layer` is the frozen part. `osf_u_kept` (outputs, kept) and `osf_v_kept` (kept, inputs) are its
    directions.
    """

    def __init__(self, base_layer: nn.Linear, share: float) -> None:
        """Without values for its own parameters: see `fill`. `share`: of the directions that are kept."""
        super().__init__()
        self.base_layer = base_layer
        self.kept = rank_kept(base_layer.weight.shape, share)
        outputs, inputs = base_layer.weight.shape
        low = min(outputs, inputs) - self.kept
        self.osf_u, self.osf_s, self.osf_v = (self._empty(*size) for size in ((outputs, low), (low,), (low, inputs)))
        self.osf_u_kept, self.osf_v_kept = (self._empty(*size) for size in ((outputs, self.kept), (self.kept, inputs)))
        for frozen in (base_layer.weight, base_layer.bias, self.osf_u_kept, self.osf_v_kept):
            if frozen is not None:
                frozen.requires_grad_(False)

    def _empty(self, *size: int) -> nn.Parameter:
        weight = self.base_layer.weight
        return nn.Parameter(torch.empty(size, dtype=weight.dtype, device=weight.device))

    def forward(self, inputs: Tensor) -> Tensor:
        """What a linear layer with the sum of both parts returns."""
        left = _Orthogonal.apply(self.osf_u, self.osf_u_kept)
        right = _Orthogonal.apply(self.osf_v.T, self.osf_v_kept.T)
        output: Tensor = self.base_layer(inputs) + ((inputs @ right) * self.osf_s) @ left.T
        return output

    def parts(self) -> list[Tensor]:
        """The weight's place and the layer's own parameters, in the order of `decomposed`."""
        return [self.base_layer.weight, self.osf_u, self.osf_s, self.osf_v, self.osf_u_kept, self.osf_v_kept]


class _Orthogonal(torch.autograd.Function):
    """The same columns, whose gradient has no component along other columns, which are orthonormal."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, others: Tensor) -> Tensor:
        ctx.save_for_backward(others)
        return columns.view_as(columns)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (others,) = ctx.saved_tensors
        return gradient - others @ (others.T @ gradient), None


def rank_kept(shape: torch.Size, share: float) -> int:
    """How many directions of a matrix are kept: as PEFT counts `effective_rank`, but at least one is trained."""
    return min(max(1, int(min(shape) * share)), min(shape) - 1)


def decomposed(weight: Tensor, kept: int) -> list[Tensor]:
    """The frozen part of a weight, its trained factors U, S and V, and its kept directions U and V."""
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    u, s, v = torch.linalg.svd(exact, full_matrices=False)
    low = u[:, kept:], s[kept:], v[kept:]
    frozen = exact - (low[0] * low[1]) @ low[2]
    return [part.to(weight.dtype).contiguous() for part in (frozen, *low, u[:, :kept], v[:kept])]


def merged(layer: OsfLinear, whole: Callable[[Tensor], Tensor] = torch.Tensor.detach) -> Tensor:
    """The weight of a plain layer, at least in float32. `whole`: returns all of a parameter, if it is sharded."""
    frozen, u, s, v = (whole(part) for part in layer.parts()[:4])
    wide = torch.promote_types(frozen.dtype, torch.float32)
    return frozen.to(wide) + (u.to(wide) * s.to(wide)) @ v.to(wide)


@dataclass(frozen=True)
class _Target:
    parent: nn.Module
    attribute: str
    layer: nn.Linear


def with_osf(model: nn.Module, adapter: Adapter) -> nn.Module:
    """Freeze the model and make its target layers trainable in part. On the meta device, weights are cut later: `fill`.

    Raises StageFailure if it has no such layer.
    """
    targets = list(_targets(model, adapter.target_modules))
    if not targets:
        names = ", ".join(adapter.target_modules)
        raise StageFailure(
            StageReason.UNKNOWN_MODULES, f"training.adapter.targetModules: no linear layer of the model is in {names}"
        )
    model.requires_grad_(False)
    for target in targets:
        layer = OsfLinear(target.layer, adapter.effective_rank)
        if not target.layer.weight.is_meta:
            fill(layer, decomposed(target.layer.weight.detach(), layer.kept))
        setattr(target.parent, target.attribute, layer)
    return model


def fill(layer: OsfLinear, parts: list[Tensor]) -> None:
    """Set the values of a layer that is not sharded."""
    for parameter, part in zip(layer.parts(), parts, strict=True):
        parameter.detach().copy_(part)


def osf_layers(model: nn.Module) -> dict[str, OsfLinear]:
    """The layers that are trained in part, by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, OsfLinear)}


def kept_weights(model: nn.Module) -> dict[str, Tensor]:
    """What is frozen and not in the base model's files, by name.

    A restart could compute it again, but on another processor two directions of nearly the same strength at the cut
    may be other ones.
    """
    return {
        f"{name}.{attribute}": layer.get_parameter(attribute).detach()
        for name, layer in osf_layers(model).items()
        for attribute in ("base_layer.weight", "osf_u_kept", "osf_v_kept")
    }


def _targets(model: Any, wanted: list[str]) -> Iterator[_Target]:
    """The layers whose name is wanted or ends with such a name. As in PEFT, all-linear leaves out the output layer."""
    output = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, nn.Linear) or min(layer.weight.shape) < 2:
            continue
        named = any(name == target or name.endswith(f".{target}") for target in wanted)
        if named or (wanted == ["all-linear"] and layer is not output):
            parent, _, attribute = name.rpartition(".")
            yield _Target(model.get_submodule(parent), attribute, layer)
