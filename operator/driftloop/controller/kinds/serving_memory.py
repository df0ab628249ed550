"""Whether the GPUs of a replica can hold a model and the cache of one request, before a pod asks for them. Pure.

    weights x bytes / (tensor x pipeline)  +  working memory  +  cache  =  what the engine may use of each GPU

The cache gets what is left, as in vLLM, which ends if that is too little for one request of the longest context
(https://docs.vllm.ai/en/latest/configuration/conserving_memory/).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from driftloop.api.engine import Engine, EngineParallelism
from driftloop.api.inferenceservice import ServingPlan
from driftloop.api.modelversion import ModelShape
from driftloop.controller.vocabulary.quantity import quantity

# vLLM's default of --gpu-memory-utilization: 0.9, and 0.92 in newer releases.
VLLM_USES, BUILT_IN_USES = 0.9, 0.95
# CUDA, NCCL, CUDA graphs and a forward pass of 8,192 tokens. For Llama 3 of 8B parameters on an H100, vLLM printed
# 3.05 GiB on one GPU and 4.84 GiB on each of two: https://github.com/vllm-project/vllm/pull/10511
WORKING_ALONE, WORKING_TOGETHER = 3 << 30, 5 << 30
MOST_GPUS = MOST_NODES = 16
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_UTILIZATION, _CONTEXT = "--gpu-memory-utilization", "--max-model-len"
# They change what weights or cache need in ways that are not planned.
_UNPLANNED = ("--quantization", "-q", "--cpu-offload", "--kv-cache", "--speculative-config", "--enable-lora")


@dataclass(frozen=True)
class DoesNotFit:
    """Why the engine can't hold the model, and what would."""

    message: str  # begins with the field to change, without spec


def memory_plan(
    engine: Engine, model: ModelShape | None, gpu_memory: Sequence[int] = ()
) -> ServingPlan | DoesNotFit | None:
    """How the memory of each GPU is used; None without GPUs, or if it can't be known.

    `engine`: resolved. `gpu_memory`: bytes per GPU on each node that may run the pods; the smallest counts, as the
    scheduler does not know them. `engine.gpuMemory` takes precedence.
    """
    gpu = quantity(engine.gpu_memory) if engine.gpu_memory is not None else min(gpu_memory, default=None)
    if model is None or gpu is None or not engine.gpus:
        return None
    match engine.type:
        case "vllm":
            return _on_vllm(engine, model, gpu)
        case "transformers":
            return _on_built_in(engine, model, gpu)
        case "custom" | "auto":
            return None
        case never:
            assert_never(never)


def _on_vllm(engine: Engine, model: ModelShape, gpu: int) -> ServingPlan | DoesNotFit | None:
    uses, context = _number(engine, _UTILIZATION, VLLM_USES), _number(engine, _CONTEXT, _context(engine, model))
    if uses is None or context is None or not 0 < uses <= 1 or context < 1 or _is_unplanned(engine):
        return None
    if model.attention_heads % engine.divided.tensor:
        return DoesNotFit(_uneven(engine, model))
    if engine.divided.pipeline > model.layers:
        return DoesNotFit(_too_many_stages(engine, model))
    planned = _divided(_Load(int(uses * gpu), _vllm_element(engine), int(context), model), engine.divided)
    return planned if planned.cache_tokens >= planned.context_tokens else DoesNotFit(_too_large(engine, model, planned))


def _vllm_element(engine: Engine) -> int:
    """Bytes per element: by default vLLM serves float32 as bfloat16 or float16 too."""
    return 2 if engine.dtype == "auto" else _BYTES[engine.dtype]


def _on_built_in(engine: Engine, model: ModelShape, gpu: int) -> ServingPlan | DoesNotFit | None:
    size = _BYTES.get(model.dtype if engine.dtype == "auto" else engine.dtype)
    if size is None:
        return None
    planned = _divided(_Load(int(BUILT_IN_USES * gpu), size, _context(engine, model), model), EngineParallelism())
    return planned if planned.cache_bytes > 0 else DoesNotFit(_too_large(engine, model, planned))


@dataclass(frozen=True)
class _Load:
    """What the GPUs of a replica have to hold."""

    available: int  # bytes per GPU that the engine may use
    element: int  # bytes per element of weights and cache
    context: int  # tokens
    model: ModelShape


def _divided(load: _Load, axes: EngineParallelism) -> ServingPlan:
    """The plan of the GPU with the most: layers and heads that do not divide evenly are rounded up."""
    model, element = load.model, load.element
    layers = -(-model.layers // axes.pipeline) / model.layers
    # With more GPUs than heads of keys and values, each has a copy of one.
    heads = max(1, -(-model.key_value_heads // axes.tensor)) / model.key_value_heads
    weights = int(model.parameters * element * layers / axes.tensor)
    working = WORKING_ALONE if axes.processes == 1 else WORKING_TOGETHER
    cache = max(0, load.available - weights - working)
    return ServingPlan(
        available_bytes=load.available,
        weights_bytes=weights,
        working_bytes=working,
        cache_bytes=cache,
        cache_tokens=int(cache / (model.cache_elements * element * layers * heads)),
        context_tokens=load.context,
    )


def _context(engine: Engine, model: ModelShape) -> int:
    return engine.max_model_len or model.context_length


def _too_large(engine: Engine, model: ModelShape, planned: ServingPlan) -> str:
    parts = (
        f"engine.gpus: {engine.gpus}{_nodes(engine)}: of each GPU {engine.type} may use "
        f"{_gib(planned.available_bytes)}; the weights "
        f"take {_gib(planned.weights_bytes)}, CUDA and a forward pass about {_gib(planned.working_bytes)}"
    )
    if not planned.cache_bytes:
        return f"{parts}, which leaves no room for requests. {_advice(engine, model, planned)}"
    return (
        f"{parts}. The {_gib(planned.cache_bytes)} that are left hold {planned.cache_tokens} tokens, and one request "
        f"may have {planned.context_tokens}. {_advice(engine, model, planned)}"
    )


def _advice(engine: Engine, model: ModelShape, planned: ServingPlan) -> str:
    ways = []
    if planned.cache_tokens >= 16:
        ways.append(f"engine.maxModelLen: {planned.cache_tokens} or less")
    without = " without engine.parallelism" if engine.parallelism else ""
    if engine.nodes == 1 and (gpus := _fewest_gpus(engine, model, planned)):
        ways.append(f"engine.gpus: {gpus}{without}")
    elif nodes := _fewest_nodes(engine, model, planned):
        ways.append(f"engine.nodes: {nodes}{without}")
    return f"Set {', or '.join([*ways, 'GPUs with more memory (podOverrides.nodeSelector)'])}"


def _fewest_gpus(engine: Engine, model: ModelShape, planned: ServingPlan) -> int | None:
    """The fewest GPUs that share every layer and hold it; None if no number does, or the engine uses only one."""
    if engine.type != "vllm":
        return None
    load = _Load(planned.available_bytes, _vllm_element(engine), planned.context_tokens, model)
    for gpus in range(engine.gpus + 1, MOST_GPUS + 1):
        if model.attention_heads % gpus == 0:
            more = _divided(load, EngineParallelism(tensor=gpus))
            if more.cache_tokens >= more.context_tokens:
                return gpus
    return None


def _fewest_nodes(engine: Engine, model: ModelShape, planned: ServingPlan) -> int | None:
    """The fewest pods with the same GPUs each that hold it, a part of the layers each; None if no number does."""
    if engine.type != "vllm" or model.attention_heads % engine.gpus:
        return None
    load = _Load(planned.available_bytes, _vllm_element(engine), planned.context_tokens, model)
    for nodes in range(engine.nodes + 1, min(MOST_NODES, model.layers) + 1):
        more = _divided(load, EngineParallelism(tensor=engine.gpus, pipeline=nodes))
        if more.cache_tokens >= more.context_tokens:
            return nodes
    return None


def _nodes(engine: Engine) -> str:
    return f", engine.nodes: {engine.nodes}" if engine.nodes > 1 else ""


def _uneven(engine: Engine, model: ModelShape) -> str:
    field = "engine.parallelism.tensor" if engine.parallelism else "engine.gpus"
    *even, last = [str(size) for size in range(1, MOST_GPUS + 1) if model.attention_heads % size == 0]
    return (
        f"{field}: {engine.divided.tensor} does not divide the model's {model.attention_heads} attention heads: set "
        f"{' or '.join([', '.join(even), last] if even else [last])}"
    )


def _too_many_stages(engine: Engine, model: ModelShape) -> str:
    field = "engine.parallelism.pipeline" if engine.parallelism else "engine.nodes"
    return f"{field}: {engine.divided.pipeline} is more than the model's {model.layers} layers: lower it"


def _is_unplanned(engine: Engine) -> bool:
    chosen = any(argument.replace("_", "-").startswith(_UNPLANNED) for argument in engine.args)
    return chosen or engine.adapters is not None


def _number(engine: Engine, name: str, default: float) -> float | None:
    """The value of an argument, or `default` if it is absent; None if it is no finite number."""
    value = _value(engine.args, name)
    if value is None:
        return default
    try:
        number = float(value)
    except ValueError:  # such as 8k or auto
        return None
    return number if math.isfinite(number) else None


def _value(args: Sequence[str], name: str) -> str | None:
    """The last value of an argument, given as `--name value` or `--name=value`."""
    last = None
    for position, argument in enumerate(args):
        key, equals, value = argument.partition("=")
        if key.replace("_", "-") == name:
            last = value if equals else next(iter(args[position + 1 :]), "")
    return last


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
