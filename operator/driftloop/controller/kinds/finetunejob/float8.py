"""Whether a training can multiply in float8: if it is compiled, and tested to give the same on any workers. Pure."""

from collections.abc import Iterator

from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.contract.result import ModelFacts
from driftloop.controller.kinds.finetunejob.compiling import refused

MULTIPLE = 16  # of the sizes of a matrix: the GPUs' kernels need it


def why_not_float8(spec: FineTuneJobSpec, model: ModelFacts) -> str | None:
    """Why the linear layers can't multiply in float8, though the spec demands it; None if they can, or don't have to.

    The types of models are those that are compiled. Which settings are tested together is in cells.py.
    """
    if not spec.training.float8:
        return None
    if needs := next(_needs(spec), None):
        return f"training.float8 is true, which needs {needs}, or remove training.float8"
    if against := list(refused(spec, model)):
        return f"training.float8 is true, which is not tested with {' and '.join(against)}: remove training.float8"
    if spec.compute.axes.context > 1:
        # In float64 gradients differed by 2e-10 from those of one process.
        return "training.float8 is true, which is not exact with compute.parallelism.context: remove one of them"
    sizes = {"hidden_size": model.hidden_size, "intermediate_size": model.intermediate_size}
    if odd := [f"{name} {size}" for name, size in sizes.items() if size % MULTIPLE]:
        return (
            f"training.float8 is true, but the model's {' and '.join(odd)} is not a multiple of {MULTIPLE}: remove it"
        )
    return None


def _needs(spec: FineTuneJobSpec) -> Iterator[str]:
    """Settings that a training in float8 must have, with what to change. The API server checks the same."""
    if spec.compute.gpus_per_node == 0:
        yield "GPUs: set compute.gpusPerNode"
    if spec.training.adapter.type != "none":
        yield "all weights to be trained: remove training.adapter"
    if spec.training.compile is False:
        yield "compiled layers, without which it is slower than bfloat16: remove training.compile"
    if spec.training.bf16 is False:
        yield "bfloat16 for all else: remove training.bf16"
