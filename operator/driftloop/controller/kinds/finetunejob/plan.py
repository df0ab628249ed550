"""How the model is sharded over the pods, how many steps training takes, and whether it fits into memory. Pure.

If `compute.parallelism` is absent, the plan chooses among the ways in axes.py: the first with which one row fits.

FSDP2 over all workers: each holds 1/N of parameters, gradients and optimizer state, and gathers one layer at a time.
With `compute.parallelism.dataReplicate`, each group of workers has all shards.
With `compute.parallelism.tensor`, neighbouring workers read the same rows, and each gathers and computes its part of
every layer. With `compute.parallelism.pipeline`, each stage has a part of the layers, sharded over its workers.
With `compute.parallelism.context`, workers read the same rows, and each computes a part of their tokens.
The estimate of memory.py refuses training that can't run, before it takes a node. Training that is near the limit is
not refused.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from driftloop.api.finetunejob import (
    CheckpointMode,
    Compute,
    Elastic,
    FineTuneJobSpec,
    Parallelism,
    PlanStatus,
    TrainingSpec,
)
from driftloop.contract.course import Course
from driftloop.contract.result import ModelFacts, PrepareResult
from driftloop.contract.uris import claim_of
from driftloop.controller.kinds.finetunejob.attention import attention_of, kernels_of, why_attention, why_kernels
from driftloop.controller.kinds.finetunejob.axes import divided, replicas, ways, workers_per_row
from driftloop.controller.kinds.finetunejob.cells import CONTEXT_TYPES, PIPELINE_TYPES, TENSOR_TYPES
from driftloop.controller.kinds.finetunejob.compiling import is_compiled, refused, why_compiled
from driftloop.controller.kinds.finetunejob.float8 import why_not_float8
from driftloop.controller.kinds.finetunejob.memory import (
    ADAM_STATES,
    FLOAT,
    GPU_RUNTIME_BYTES,
    UNSHARDED_GRADIENTS,
    gradient_reduction,
    largest_stage,
    memory_per_pod,
    memory_per_worker,
)
from driftloop.controller.kinds.finetunejob.why import (
    gib,
    why_axes,
    why_checkpoints,
    why_reduction,
    why_rows,
)
from driftloop.controller.kinds.finetunejob.whyaxes import Division, why_each_axis, why_exact
from driftloop.controller.vocabulary.conditions import shorten
from driftloop.controller.vocabulary.quantity import quantity
from driftloop.controller.vocabulary.reasons import Reason

MOST_REASON = 256  # characters of a reason in the status
# Usable share of a GPU's memory. The driver needs some of it, and some is lost to fragmentation in the allocator.
USABLE = 0.95


@dataclass(frozen=True)
class TrainingPlan:
    """The plan for the train stage."""

    workers_per_node: int  # processes per pod
    groups: int  # of workers that read the same rows
    per_device_train_batch_size: int  # rows that a worker computes at once
    parallelism: Parallelism  # how the workers divide the model
    status: PlanStatus  # the plan as the status shows it


@dataclass(frozen=True)
class Refusal:
    """Why the job can't be trained. This is final, because the spec is immutable."""

    reason: Reason  # for the condition
    message: str  # the same in words, with what to change
    cause: str = ""  # the start of `message`, for the status


@dataclass(frozen=True)
class _Share:
    """What a worker computes at once, and whether that fits."""

    rows: int  # the micro-batch
    memory: dict[str, int]  # bytes that a worker needs, by what they are for
    available: int | None  # bytes that it was compared with; None: unknown


def plan(spec: FineTuneJobSpec, data: PrepareResult, gpu_memory: Sequence[int] = ()) -> TrainingPlan | Refusal:
    """Shard the model over `spec.compute`, or explain why that is not possible.

    `gpu_memory`: bytes per GPU on each node that may run the pods, if known. `compute.gpuMemory` takes precedence. With
    `compute.elastic`, a worker's rows and memory are those on the least number of nodes, where it needs the most.
    """
    if spec.compute.parallelism is not None:
        return _explained(spec, data.model, _divided_plan(spec, data, gpu_memory))
    sharded: Refusal | None = None  # why shards alone are not enough
    for way in ways(spec, data.model):
        if sharded is not None and sharded.reason == Reason.BATCH_TOO_SMALL and way.pipeline > 1:
            continue  # with hardly a row to a step, stages would wait for each other
        match _divided_plan(divided(spec, way), data, gpu_memory):
            case TrainingPlan() as found if sharded is None:
                return _with_reason(spec, data.model, _replicated(spec, data, gpu_memory, found), None)
            case TrainingPlan() as found:
                return _with_reason(spec, data.model, found, sharded)
            case Refusal(Reason.DOES_NOT_FIT | Reason.BATCH_TOO_SMALL) as refusal:
                sharded = sharded or refusal
            case Refusal() as refusal if sharded is None:
                return refusal
            case Refusal():
                continue
            case never:
                assert_never(never)
    assert sharded is not None  # there is at least one way
    return sharded


def plan_of_running(
    spec: FineTuneJobSpec, data: PrepareResult, gpu_memory: Sequence[int], way: Parallelism
) -> TrainingPlan | Refusal:
    """The plan of a training that runs with this division. A new plan may choose another one, as memory is unknown."""
    match plan(spec, data, gpu_memory):
        case TrainingPlan(parallelism=chosen) as found if chosen == way:
            return found
        case TrainingPlan() | Refusal():
            running = divided(spec, way)
            return _explained(running, data.model, _divided_plan(running, data, gpu_memory))
        case never:
            assert_never(never)


def _replicated(
    spec: FineTuneJobSpec, data: PrepareResult, gpu_memory: Sequence[int], sharded: TrainingPlan
) -> TrainingPlan:
    """The plan with the most replicas that need no smaller micro-batch than shards over all workers; or `sharded`."""
    if sharded.status.available_bytes_per_worker is None:
        return sharded
    for count in replicas(spec, data.model):
        match _divided_plan(divided(spec, Parallelism(data_replicate=count)), data, gpu_memory):
            case TrainingPlan(per_device_train_batch_size=rows) as found if rows >= sharded.per_device_train_batch_size:
                return found
            case TrainingPlan() | Refusal():
                continue
            case never:
                assert_never(never)
    return sharded


def _with_reason(
    spec: FineTuneJobSpec, model: ModelFacts, chosen: TrainingPlan, sharded: Refusal | None
) -> TrainingPlan:
    """The plan with the reason why the workers divide the model so. `sharded`: why shards alone are not enough."""
    way, cause = chosen.parallelism, None if sharded is None else sharded.cause
    reason = why_axes(workers_per_row(way), way.data_replicate, cause)
    return _with_reasons(chosen, {"strategy": reason} | _why_divided(spec, model, chosen, cause))


def _explained(spec: FineTuneJobSpec, model: ModelFacts, planned: TrainingPlan | Refusal) -> TrainingPlan | Refusal:
    """The plan of a job that sets the axes itself, with the reason for each axis."""
    match planned:
        case TrainingPlan():
            return _with_reasons(planned, _why_divided(spec, model, planned, None))
        case Refusal():
            return planned
        case never:
            assert_never(never)


def _why_divided(spec: FineTuneJobSpec, model: ModelFacts, planned: TrainingPlan, cause: str | None) -> dict[str, str]:
    """The reason for each axis, and whether a test compares the whole with plain training."""
    known = planned.status.available_bytes_per_worker is not None
    division = Division(spec, model, planned.parallelism, cause, known)
    return {**why_each_axis(division), "exactness": why_exact(division)}


def _with_reasons(planned: TrainingPlan, reasons: dict[str, str]) -> TrainingPlan:
    status = planned.status
    return replace(planned, status=status.model_copy(update={"reasons": {**(status.reasons or {}), **reasons}}))


def _divided_plan(spec: FineTuneJobSpec, data: PrepareResult, gpu_memory: Sequence[int]) -> TrainingPlan | Refusal:
    """The plan with the job's `compute.parallelism`."""
    whole = _plan(spec, data, gpu_memory)
    if spec.compute.elastic is None:
        return whole
    match whole:
        case TrainingPlan():
            return _elastic(whole, spec.compute.elastic, spec, data, gpu_memory)
        case Refusal():
            return whole
        case never:
            assert_never(never)


def _elastic(
    whole: TrainingPlan, elastic: Elastic, spec: FineTuneJobSpec, data: PrepareResult, gpu_memory: Sequence[int]
) -> TrainingPlan | Refusal:
    """The plan for all nodes, with the rows and the memory of a worker on the least number of nodes."""
    fewer = spec.compute.model_copy(update={"nodes": elastic.min_nodes})
    match _plan(spec.model_copy(update={"compute": fewer}), data, gpu_memory):
        case Refusal(reason, message):
            return Refusal(reason, f"on {elastic.min_nodes} nodes (compute.elastic.minNodes): {message}")
        case TrainingPlan(per_device_train_batch_size=micro, status=least):
            batches = math.ceil(spec.training.train_batch_size / (whole.groups * micro))
            kept = {"strategy": whole.status.strategy, "world_size": whole.status.world_size}
            status = least.model_copy(update=kept | {"gradient_accumulation_steps": batches})
            return replace(whole, per_device_train_batch_size=micro, status=status)
        case never:
            assert_never(never)


def _plan(spec: FineTuneJobSpec, data: PrepareResult, gpu_memory: Sequence[int]) -> TrainingPlan | Refusal:
    training, compute = resolved(spec), spec.compute
    if refusal := _no_rows(data) or impossible(data.model, compute.axes) or _not_compiled(spec, data.model):
        return refusal
    if refusal := _not_in_float8(spec, data.model):
        return refusal
    if refusal := _no_groups(compute) or _small_batch(training, compute):
        return refusal
    # The estimate is of the built-in loop: a training of the user's own may need less.
    limits = [] if training.entrypoint else available_per_worker(compute, gpu_memory)
    share = _share(training, data, compute, limits)
    if share.available is not None and share.memory["total"] > share.available:
        needed = f"a worker needs {gib(share.memory['total'])} of {gib(share.available)} for one row"
        return Refusal(Reason.DOES_NOT_FIT, _does_not_fit(share.memory, share.available), needed)
    if refusal := _small_pod(spec, data):
        return refusal
    status = _status(spec, data, share)
    return TrainingPlan(_workers_per_node(compute), _groups(compute), share.rows, compute.axes, status)


def _small_pod(spec: FineTuneJobSpec, data: PrepareResult) -> Refusal | None:
    """Why a pod with GPUs has too little memory beside theirs; None if it has enough, or if that is not known."""
    if (memory := lacking_in_pod(spec, data)) is None:
        return None
    limit = spec.compute.resources.limits["memory"]
    cause = f"a pod needs about {gib(memory['total'])} beside its GPUs, but compute.resources.limits.memory is {limit}"
    parts = ", ".join(f"{name} {gib(size)}" for name, size in memory.items() if name != "total")
    return Refusal(Reason.DOES_NOT_FIT, f"{cause} (at most {parts})", cause)


def lacking_in_pod(spec: FineTuneJobSpec, data: PrepareResult) -> dict[str, int] | None:
    """What a pod with GPUs needs beside their memory, if that is more than its limit; else None."""
    memory, limit = _pod_memory(spec, data), spec.compute.resources.limits.get("memory")
    if spec.training.entrypoint or limit is None or memory is None or memory["total"] <= quantity(limit):
        return None
    return memory


def with_what_it_had(spec: FineTuneJobSpec, data: PrepareResult) -> FineTuneJobSpec:
    """The spec of a job that has trained before: if its pods have less memory than is estimated, as if they had that.

    It had enough, or is told when it has not. The estimate is there to refuse a job before it takes GPUs.
    """
    if (memory := lacking_in_pod(spec, data)) is None:
        return spec
    limits = spec.compute.resources.limits | {"memory": str(memory["total"])}
    resources = spec.compute.resources.model_copy(update={"limits": limits})
    return spec.model_copy(update={"compute": spec.compute.model_copy(update={"resources": resources})})


def _pod_memory(spec: FineTuneJobSpec, data: PrepareResult) -> dict[str, int] | None:
    """What a pod with GPUs needs beside their memory, without the copy for a checkpoint; None without GPUs."""
    compute = spec.compute
    if not compute.gpus_per_node:
        return None
    in_pod = _workers_per_node(compute)
    return memory_per_pod(resolved(spec), data, _groups(compute), in_pod, _file_copies(spec), compute.axes)


def _file_copies(spec: FineTuneJobSpec) -> int:
    """How many copies of a weight file a worker that writes it holds in memory."""
    if spec.training.adapter.type in ("lora", "qlora") and not spec.output.merge_adapter:
        return 0
    return 2 if claim_of(spec.storage) is None else 1


def _status(spec: FineTuneJobSpec, data: PrepareResult, share: _Share) -> PlanStatus:
    """The plan as the status shows it, with the reasons for what it chose."""
    training, compute, model = resolved(spec), spec.compute, data.model
    parallelism, groups = compute.axes, _groups(compute)
    stage = largest_stage(model, parallelism)
    reduction, gradients = gradient_reduction(stage), FLOAT * stage.trainable_parameters
    checkpoints, memory = with_checkpoint_copy(share.memory, training, compute)
    pod = _pod_memory(spec, data)
    if pod is not None and checkpoints == "asynchronous":
        copy = _workers_per_node(compute) * checkpoint_copy(share.memory, training)
        pod |= {"checkpoint": copy, "total": max(pod["total"], pod["runtime"] + copy)}
    larger = _larger(training, data, compute, share.rows)
    compiled = is_compiled(spec, model)
    attention, kernels = attention_of(training, spec, model), kernels_of(training, compiled=compiled)
    why = {
        "attention": None if attention is None else why_attention(attention, training, spec),
        "kernels": None if kernels is None else why_kernels(kernels, model),
    }
    return PlanStatus(
        strategy=_strategy(groups, parallelism),
        world_size=_world(compute),
        parameters=model.parameters,
        trainable_parameters=model.trainable_parameters,
        total_steps=Course.of(training, _rows(data)).steps,
        gradient_accumulation_steps=math.ceil(training.train_batch_size / (groups * share.rows)),
        per_device_train_batch_size=share.rows,
        gradient_reduction=reduction,
        checkpoints=checkpoints,
        compile=compiled,
        float8=training.float8,
        attention=attention,
        kernels=kernels,
        reasons={
            "strategy": "compute.parallelism says so",
            "perDeviceTrainBatchSize": why_rows(share.available, larger, parallelism.pipeline),
            "gradientReduction": why_reduction(reduction, gradients, UNSHARDED_GRADIENTS),
            "checkpoints": why_checkpoints(checkpoints, compute.resources.limits.get("memory")),
            "compile": shorten(why_compiled(spec, model), MOST_REASON),
        }
        | {name: reason for name, reason in why.items() if reason is not None},
        memory_bytes_per_worker=memory,
        available_bytes_per_worker=share.available,
        memory_bytes_per_pod=pod,
    )


def _rows(data: PrepareResult) -> int:
    """Number of training rows, or of the sequences into which they are packed."""
    return data.sequences or data.train_rows


def _workers_per_node(compute: Compute) -> int:
    return compute.gpus_per_node or compute.workers_per_node


def _world(compute: Compute) -> int:
    """Number of workers."""
    return compute.nodes * _workers_per_node(compute)


def _group(compute: Compute) -> int:
    """Number of workers that read the same rows."""
    return compute.axes.pipeline * compute.axes.context * compute.axes.tensor


def _groups(compute: Compute) -> int:
    """Number of groups of workers that read the same rows."""
    return _world(compute) // _group(compute)


def _no_rows(data: PrepareResult) -> Refusal | None:
    """Why there is nothing to train on; None if there is something."""
    if _rows(data) and data.trained_tokens:
        return None
    counted = f"{data.train_rows} training rows, {data.trained_tokens} of their tokens count in the loss"
    return Refusal(Reason.NO_TRAINING_ROWS, f"{counted}: check data.sources, their columns and training.lossOn")


def _no_groups(compute: Compute) -> Refusal | None:
    """Why the workers can't be divided into groups; None if they can."""
    world, group = _world(compute), _group(compute)
    if world % group == 0:
        return None
    message = (
        f"compute.parallelism.pipeline x context x tensor is {group}, which does not divide the {world} workers: "
        "lower them, or set other compute.nodes"
    )
    shares_tokens = compute.axes.context > 1
    return Refusal(Reason.CONTEXT_PARALLELISM if shares_tokens else Reason.PIPELINE_PARALLELISM, message)


def _small_batch(training: TrainingSpec, compute: Compute) -> Refusal | None:
    """Why a batch has too few rows for all groups; None if it has enough."""
    groups = _groups(compute)
    if training.train_batch_size >= groups:
        return None
    readers = "workers" if groups == _world(compute) else "groups of workers"
    cause = f"training.trainBatchSize is {training.train_batch_size}, less than the {groups} {readers}"
    return Refusal(Reason.BATCH_TOO_SMALL, f"{cause}: raise it to at least {groups}", cause)


def resolved(spec: FineTuneJobSpec) -> TrainingSpec:
    """`spec.training` with the default of `bf16` for its compute: true on GPUs.

    An H100 multiplies about fifteen times faster in bfloat16 than in float32.
    """
    training = spec.training
    if training.bf16 is not None:
        return training
    return training.model_copy(update={"bf16": spec.compute.gpus_per_node > 0})


def _not_compiled(spec: FineTuneJobSpec, model: ModelFacts) -> Refusal | None:
    """Why this training can't be compiled, though the spec demands it; None if it can, or does not have to."""
    against = list(refused(spec, model))
    if not spec.training.compile or not against:
        return None
    message = f"training.compile is true, which is not tested with {' and '.join(against)}: remove training.compile"
    return Refusal(Reason.COMPILE_UNSUPPORTED, message)


def _not_in_float8(spec: FineTuneJobSpec, model: ModelFacts) -> Refusal | None:
    """Why this training can't multiply in float8, though the spec demands it; None if it can, or does not have to."""
    message = why_not_float8(spec, model)
    return None if message is None else Refusal(Reason.FLOAT8_UNSUPPORTED, message)


def _strategy(groups: int, parallelism: Parallelism) -> str:
    axes = {
        "pipeline": parallelism.pipeline,
        "stages": parallelism.stages_per_worker,
        "replicate": parallelism.data_replicate,
        "fsdp": groups // parallelism.data_replicate,
        "context": parallelism.context,
        "tensor": parallelism.tensor,
    }
    return " x ".join(f"{name}{size}" for name, size in axes.items() if size > 1) or "single"


def impossible(model: ModelFacts, parallelism: Parallelism) -> Refusal | None:
    """Why this model can't be divided in this way; None if it can."""
    tensor = parallelism.tensor
    return _not_cut(model, parallelism) or _not_split(model, tensor) or _not_shared(model, parallelism.context, tensor)


def _not_cut(model: ModelFacts, parallelism: Parallelism) -> Refusal | None:
    """Why this model can't be cut into these stages; None if it can."""
    if parallelism.pipeline == 1:
        return None
    field, stages = f"compute.parallelism.pipeline is {parallelism.pipeline}", parallelism.pipeline
    if model.model_type not in PIPELINE_TYPES:
        return Refusal(Reason.PIPELINE_PARALLELISM, _not_tested(field, model, PIPELINE_TYPES))
    if model.num_layers >= stages * parallelism.stages_per_worker:
        return None
    if model.num_layers >= stages:
        message = (
            f"{field} and stagesPerWorker {parallelism.stages_per_worker}, more stages than the model's "
            f"{model.num_layers} layers: set stagesPerWorker to {model.num_layers // stages}"
        )
        return Refusal(Reason.PIPELINE_PARALLELISM, message)
    most = max(fewer for fewer in range(1, stages) if stages % fewer == 0 and fewer <= max(1, model.num_layers))
    return Refusal(
        Reason.PIPELINE_PARALLELISM, f"{field}, more than the model's {model.num_layers} layers: set it to {most}"
    )


def _not_tested(field: str, model: ModelFacts, types: Sequence[str]) -> str:
    tested = ", ".join(types)
    return f"{field}, which is not tested for models of type {model.model_type}, only for {tested}: set it to 1"


def _not_split(model: ModelFacts, tensor: int) -> Refusal | None:
    """Why the matrices of this model can't be split over `tensor` workers; None if they can."""
    if tensor == 1:
        return None
    field = f"compute.parallelism.tensor is {tensor}"
    if model.model_type not in TENSOR_TYPES:
        return Refusal(Reason.TENSOR_PARALLELISM, _not_tested(field, model, TENSOR_TYPES))
    if model.left_whole:
        message = f"{field}, but the model's {model.left_whole} has weights and can't be split: set it to 1"
        return Refusal(Reason.TENSOR_PARALLELISM, message)
    parts = {
        "attention heads": model.num_attention_heads,
        "key-value heads": model.num_key_value_heads,
        "columns of the MLP": model.intermediate_size,
    }
    undivided = [f"{size} {name}" for name, size in parts.items() if size % tensor]
    if not undivided:
        return None
    most = math.gcd(tensor, *parts.values())  # it divides the workers of a node too
    message = f"{field}, which does not divide the model's {' and '.join(undivided)}: set it to {most}"
    return Refusal(Reason.TENSOR_PARALLELISM, message)


def _not_shared(model: ModelFacts, context: int, tensor: int) -> Refusal | None:
    """Why `context` workers can't share the tokens of rows; None if they can."""
    if context == 1:
        return None
    field = f"compute.parallelism.context is {context}"
    if model.model_type not in CONTEXT_TYPES:
        return Refusal(Reason.CONTEXT_PARALLELISM, _not_tested(field, model, CONTEXT_TYPES))
    if model.position_scaling:
        message = (
            f"{field}, but with rope_type {model.position_scaling} positions depend on the longest row: set it to 1"
        )
        return Refusal(Reason.CONTEXT_PARALLELISM, message)
    parts = {"attention heads": model.num_attention_heads, "key-value heads": model.num_key_value_heads}
    heads = {name: size // tensor for name, size in parts.items()}
    undivided = [f"{size} {name}" for name, size in heads.items() if size % context]
    if not undivided:
        return None
    of = "the model's" if tensor == 1 else "a worker's"
    most = math.gcd(context, *heads.values())
    message = f"{field}, which does not divide {of} {' and '.join(undivided)}: set it to {most}"
    return Refusal(Reason.CONTEXT_PARALLELISM, message)


def micro_batches(training: TrainingSpec, groups: int, stages: int = 1) -> Iterator[int]:
    """Possible micro-batch sizes, descending: the largest that the spec allows, then smaller equal parts.

    With a pipeline there are at least as many micro-batches as `stages`, if the batch has the rows. They are equal
    parts, as all are padded to the largest.
    """
    share = math.ceil(training.train_batch_size / groups)
    micro = min(training.per_device_train_batch_size, share)
    if stages > 1:
        most = min(micro, max(1, (share - 1) // (stages - 1)))  # more rows would make fewer micro-batches
        micro = math.ceil(share / math.ceil(share / most))
    yield micro
    while micro > 1:
        parts = math.ceil(share / (micro - 1))  # the least number of parts that are smaller
        micro = math.ceil(share / parts)
        yield micro


def _share(training: TrainingSpec, data: PrepareResult, compute: Compute, limits: Sequence[int]) -> _Share:
    """The largest micro-batch that fits.

    `limits` are the memory limits of the nodes that may run the pods, ascending. It is unknown which of these nodes
    will run them, so the plan is for the smallest limit that fits at least one row. If no limit does, it is the
    smallest micro-batch with the largest limit.
    """
    sizes = micro_batches(training, _groups(compute), compute.axes.pipeline)
    choices = [(rows, _memory(training, data, compute, rows)) for rows in sizes]
    for limit in limits:
        for rows, memory in choices:
            if memory["total"] <= limit:
                return _Share(rows, memory, limit)
    rows, memory = choices[-1] if limits else choices[0]
    return _Share(rows, memory, max(limits, default=None))


def _larger(training: TrainingSpec, data: PrepareResult, compute: Compute, rows: int) -> tuple[int, int] | None:
    """The next larger micro-batch that is allowed, and the memory that it needs; None for the largest one."""
    sizes = micro_batches(training, _groups(compute), compute.axes.pipeline)
    larger = [size for size in sizes if size > rows]
    return (larger[-1], _memory(training, data, compute, larger[-1])["total"]) if larger else None


def _memory(training: TrainingSpec, data: PrepareResult, compute: Compute, rows: int) -> dict[str, int]:
    on_gpu, groups = compute.gpus_per_node > 0, _groups(compute)
    return memory_per_worker(training, data, groups, rows, on_gpu=on_gpu, parallelism=compute.axes)


def with_checkpoint_copy(
    memory: dict[str, int], training: TrainingSpec, compute: Compute
) -> tuple[CheckpointMode, dict[str, int]]:
    """How checkpoints are written, and the memory of a worker with the copy that is written during the training.

    The copy is in the pod's memory, also with GPUs, whose part of the pod's memory is not in `memory`. If the pod's
    limit has no room for it, the training waits for its checkpoints. The copy is freed before the export.
    """
    in_pod, copy = _workers_per_node(compute), checkpoint_copy(memory, training)
    used = GPU_RUNTIME_BYTES if compute.gpus_per_node else memory["training"]
    limit = compute.resources.limits.get("memory")
    if limit is not None and used + copy > quantity(limit) // in_pod:
        return "synchronous", memory
    if compute.gpus_per_node:
        return "asynchronous", memory
    needed = memory["training"] + copy
    return "asynchronous", memory | {
        "checkpoint": copy,
        "training": needed,
        "total": max(memory["total"], needed),
    }


def checkpoint_copy(memory: dict[str, int], training: TrainingSpec) -> int:
    """Bytes of a worker's copy for a checkpoint: the trained weights and their moments, which are of the same size.

    For osf also the weights that are kept.
    """
    trained = math.ceil(memory["optimizer"] / ADAM_STATES)
    return memory["optimizer"] + (memory["weights"] if training.adapter.type == "osf" else trained)


def available_per_worker(compute: Compute, gpu_memory: Sequence[int] = ()) -> list[int]:
    """Bytes available to a worker on each node that may run it, ascending; empty if unknown.

    Without GPUs it is the worker's share of the pod's memory limit. With GPUs it is `compute.gpuMemory`, else the GPU
    memory of the nodes.
    """
    if compute.gpus_per_node:
        known = [quantity(compute.gpu_memory)] if compute.gpu_memory is not None else sorted(set(gpu_memory))
        return [int(USABLE * size) for size in known]
    limit = compute.resources.limits.get("memory")
    return [] if limit is None else [quantity(limit) // compute.workers_per_node]


def _does_not_fit(memory: dict[str, int], available: int) -> str:
    parts = ", ".join(
        f"{name} {gib(size)}" for name, size in memory.items() if size and name not in ("training", "total")
    )
    return (
        f"a worker needs about {gib(memory['total'])} even with one row at a time (at most {parts}), but it has only "
        f"{gib(available)}"
    )
