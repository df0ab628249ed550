"""Whether a training is compiled: what is tested to give the same losses, and is worth its time. Pure."""

from collections.abc import Iterator

from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.contract.result import ModelFacts

# Types of models whose compiled layers give what plain training gives (tests/unit/trainer/test_compiled_exactness.py).
COMPILED_TYPES = ("llama", "mistral", "qwen2", "qwen3")
COMPILED_METHODS = ("sft", "pretrain")


def is_compiled(spec: FineTuneJobSpec, model: ModelFacts) -> bool:
    """Whether to compile: as `training.compile` says; if it is absent, with GPUs, if nothing is against it."""
    if spec.training.compile is not None:
        return spec.training.compile
    return spec.compute.gpus_per_node > 0 and not any(untested(spec, model))


def why_compiled(spec: FineTuneJobSpec, model: ModelFacts) -> str:
    """The reason of `is_compiled`."""
    if spec.training.compile is not None:
        return f"training.compile is {str(spec.training.compile).lower()}"
    if spec.compute.gpus_per_node == 0:
        return "on CPUs compiling takes longer than it saves in a short training: set training.compile for a long one"
    against = next(untested(spec, model), None)
    return "a GPU computes compiled layers faster" if against is None else f"compiling is not tested with {against}"


def untested(spec: FineTuneJobSpec, model: ModelFacts) -> Iterator[str]:
    """Settings with which no test compares compiled training with plain training."""
    training = spec.training
    if training.entrypoint is not None:
        yield "training.entrypoint, which compiles what it likes itself"
    if model.model_type not in COMPILED_TYPES:
        yield f"models of type {model.model_type}, only with {', '.join(COMPILED_TYPES)}"
    if training.method not in COMPILED_METHODS:
        yield f"training.method {training.method}"
    if spec.compute.axes.tensor > 1:
        yield "compute.parallelism.tensor"
