"""Whether a training is compiled: what is tested to give the same losses, and is worth its time. Pure."""

from collections.abc import Iterator

from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.contract.result import ModelFacts
from driftloop.controller.kinds.finetunejob.cells import CELLS, cell_of, is_exact

COMPILED_TYPES = tuple(sorted({cell.model_type for cell in CELLS if cell.compiled}))
COMPILED_METHODS = ("sft", "pretrain")


def is_compiled(spec: FineTuneJobSpec, model: ModelFacts) -> bool:
    """Whether to compile: as `training.compile` says; if it is absent, with GPUs, what is tested; float8 needs it."""
    if spec.training.compile is not None:
        return spec.training.compile
    return spec.training.float8 or (spec.compute.gpus_per_node > 0 and next(against(spec, model), None) is None)


def why_compiled(spec: FineTuneJobSpec, model: ModelFacts) -> str:
    """The reason of `is_compiled`."""
    if spec.training.compile is not None:
        return f"training.compile is {str(spec.training.compile).lower()}"
    if spec.training.float8:
        return "training.float8 is slower than bfloat16 without compiled layers"
    if spec.compute.gpus_per_node == 0:
        return "on CPUs compiling takes longer than it saves in a short training: set training.compile for a long one"
    reason = next(against(spec, model), None)
    return "a GPU computes compiled layers faster" if reason is None else f"compiling is not tested with {reason}"


def against(spec: FineTuneJobSpec, model: ModelFacts) -> Iterator[str]:
    """Reasons not to compile if the job does not ask for it: no test compares this with plain training."""
    yield from refused(spec, model)
    if not is_exact(cell := cell_of(spec, model.model_type, compiled=True)):
        yield f"these settings together: {cell}"


def refused(spec: FineTuneJobSpec, model: ModelFacts) -> Iterator[str]:
    """Settings with which compiled training is not even tried."""
    training = spec.training
    if training.entrypoint is not None:
        yield "training.entrypoint, which compiles what it likes itself"
    if model.model_type not in COMPILED_TYPES:
        yield f"models of type {model.model_type}, only with {', '.join(COMPILED_TYPES)}"
    if training.method not in COMPILED_METHODS:
        yield f"training.method {training.method}"
    if spec.compute.axes.tensor > 1:
        yield "compute.parallelism.tensor"
