"""Models that compute in float64 what transformers computes in float32: there one bit of difference becomes 1e-7."""

from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from driftloop.controller.kinds.finetunejob.compiling import COMPILED_TYPES
from driftloop_trainer.models import decoder_layers


class InFloat64(TorchFunctionMode):
    """Tensors of float64 stay what they are where they should become float32, as in norms, softmax and routers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if not (args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64):
            return func(*args, **options)
        if func is torch.Tensor.float:
            return args[0]
        wide = [torch.float64 if value is torch.float32 else value for value in args]
        return func(*wide, **{k: torch.float64 if v is torch.float32 else v for k, v in options.items()})


def compute_in_float64(model: Any) -> None:
    """Let the layers of `model`, and the norm after them, never leave float64. Before an adapter is added.

    Compiled layers are traced, which such a mode makes very slow. They leave float64 only in their norms.
    """
    if model.config.model_type in COMPILED_TYPES:
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = partial(_normalised, module)
        return
    after = [module for module in model.get_decoder().children() if "norm" in type(module).__name__.lower()]
    for module in (*decoder_layers(model), *after):
        module.forward = partial(_in_float64, module.forward)


def _in_float64(forward: Any, *args: Any, **kwargs: Any) -> Any:
    with InFloat64():
        return forward(*args, **kwargs)


def _normalised(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    normalised: torch.Tensor = (
        norm.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    )
    return normalised
