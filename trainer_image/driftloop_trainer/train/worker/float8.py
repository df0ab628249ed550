"""Linear layers that multiply in float8, by torchao.

The recipe has a scale per row of the input, of the matrix and of the output's gradient, so the result of a token does
not depend on the other tokens of its micro-batch. The gradient of a matrix is computed in bfloat16: in float8 it would
depend on how a step's rows are divided into micro-batches. A matrix has one more scale, of the whole matrix, for the
gradient of the input. Weights, their exchange, moments and checkpoints are those of a training without float8.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import BadInput, StageFailure
from driftloop_trainer.train.worker.checkpoint import from_all_ranks

RECIPE = "rowwise_with_gw_hp"
MULTIPLE = 16  # of both dimensions of a matrix: the GPUs' kernels need it
LEAST_CAPABILITY = (8, 9)  # Ada; then Hopper and Blackwell


def use_float8(layers: Sequence[nn.Module], *, emulate: bool) -> None:
    """Let the linear layers in the decoder `layers` multiply in float8. The layers must not be sharded yet.

    Parameters keep their names. `emulate`: round to float8 and multiply in the computation's precision, without a GPU.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training  # takes seconds, and few need it

    config = replace(Float8LinearConfig.from_recipe_name(RECIPE), emulate=emulate)
    for layer in layers:
        convert_to_float8_training(layer, config=config, module_filter_fn=lambda module, _: _is_divisible(module))


def _is_divisible(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and not any(size % MULTIPLE for size in module.weight.shape)


def lacking_gpu(device: torch.device) -> StageFailure | None:
    """The failure of all ranks if any of their devices can't multiply in float8; every rank calls it."""
    if lacking := from_all_ranks(_lack(device)):
        message = f"training.float8 is true, but {'; '.join(lacking)}: remove training.float8, or choose other nodes"
        return BadInput(StageReason.FLOAT8_UNSUPPORTED, f"{message} with podOverrides.nodeSelector")
    return None


def _lack(device: torch.device) -> list[str]:
    """Why a device can't multiply in float8; empty if it can."""
    needed = ".".join(map(str, LEAST_CAPABILITY))
    if device.type != "cuda" or torch.version.hip is not None:
        return [f"a worker computes on {device.type}, without an NVIDIA GPU of compute capability {needed} or higher"]
    capability = torch.cuda.get_device_capability(device)
    if capability >= LEAST_CAPABILITY:
        return []
    has = ".".join(map(str, capability))
    return [f"the GPU {torch.cuda.get_device_name(device)} has compute capability {has}, and float8 needs {needed}"]
