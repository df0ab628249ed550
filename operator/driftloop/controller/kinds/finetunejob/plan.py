"""How the model is sharded over the pods, how many steps training takes, and whether it fits into memory. Pure.

FSDP2 over all workers: each holds 1/N of parameters, gradients and optimizer state, and gathers one layer at a time.
With `compute.parallelism.dataReplicate`, each group of workers has all shards.
With `compute.parallelism.tensor`, neighbouring workers read the same rows, and each gathers and computes its part of
every layer. With `compute.parallelism.pipeline`, each stage has a part of the layers, sharded over its workers.
The estimate refuses training that can't run, before it takes a node. Training that is near the limit is not refused.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from driftloop.api.finetunejob import (
    CheckpointMode,
    Compute,
    FineTuneJobSpec,
    GradientReduction,
    Parallelism,
    PlanStatus,
    TrainingSpec,
)
from driftloop.contract.course import Course, trained_examples_per_sequence
from driftloop.contract.loss import chunk_tokens
from driftloop.contract.names import WEIGHT_FILE_BYTES
from driftloop.contract.result import ModelFacts, PrepareResult
from driftloop.controller.kinds.finetunejob.why import gib, why_checkpoints, why_reduction, why_rows
from driftloop.controller.vocabulary.quantity import quantity
from driftloop.controller.vocabulary.reasons import Reason

FLOAT, HALF = 4, 2  # bytes
# Linear layers of a dense decoder layer: q, k, v and o of the attention, and gate, up and down of the MLP.
LINEAR_LAYERS = 7
ADAM_STATES = 2  # AdamW keeps two moments per weight, in float32 like the weights
# Memory of a worker for Python, torch and Ray (measured: 0.4 GiB), and memory of a GPU for CUDA, cuBLAS and NCCL
# (measured: 1.9 GiB beside a model of 1.2B parameters on an H200).
RUNTIME_BYTES, GPU_RUNTIME_BYTES = 512 << 20, 2048 << 20
# torch prefetches the next layer during the computation of a layer.
GATHERED_LAYERS = 2

# Gradients of up to this size are kept unsharded until the last micro-batch of a step: adding them up once is faster.
# Those of a larger model are added up and sharded after every micro-batch.
UNSHARDED_GRADIENTS = 1 << 30

# Types of models whose matrices are split exactly (tests/unit/trainer/test_exactness.py).
TENSOR_TYPES = ("llama", "mistral", "qwen2", "qwen3")
PIPELINE_TYPES = ("llama", "mistral", "qwen2", "qwen3")  # those that are cut into stages exactly (same file)

# Usable share of a GPU's memory. The driver needs some of it, and some is lost to fragmentation in the allocator.
USABLE = 0.95


@dataclass(frozen=True)
class TrainingPlan:
    """The plan for the train stage."""

    workers_per_node: int
    per_device_train_batch_size: int
    status: PlanStatus  # the plan as the status shows it


@dataclass(frozen=True)
class Refusal:
    """Why the job can't be trained. This is final, because the spec is immutable."""

    reason: Reason
    message: str


def plan(spec: FineTuneJobSpec, data: PrepareResult, gpu_memory: Sequence[int] = ()) -> TrainingPlan | Refusal:
    """Shard the model over `spec.compute`, or explain why that is not possible.

    `gpu_memory`: bytes per GPU on each node that may run the pods, if known. `compute.gpuMemory` takes precedence.
    """
    training, compute = resolved(spec), spec.compute
    workers_per_node = compute.gpus_per_node or compute.workers_per_node
    world = compute.nodes * workers_per_node
    rows = data.sequences or data.train_rows
    if rows == 0 or data.trained_tokens == 0:
        counted = f"{data.train_rows} training rows, {data.trained_tokens} of their tokens count in the loss"
        return Refusal(Reason.NO_TRAINING_ROWS, f"{counted}: check data.sources, their columns and training.lossOn")
    parallelism = compute.parallelism
    if refusal := _not_cut(data.model, parallelism.pipeline) or _not_split(data.model, parallelism.tensor):
        return refusal
    groups, left = divmod(world, parallelism.pipeline * parallelism.tensor)
    if left:
        message = (
            f"compute.parallelism.pipeline x tensor is {parallelism.pipeline * parallelism.tensor}, which does not "
            f"divide the {world} workers: lower them, or set other compute.nodes"
        )
        return Refusal(Reason.PIPELINE_PARALLELISM, message)
    if training.train_batch_size < groups:
        message = (
            f"training.trainBatchSize is {training.train_batch_size}, less than the {groups} "
            f"{'workers' if groups == world else 'groups of workers'}: raise it to at least {groups}"
        )
        return Refusal(Reason.BATCH_TOO_SMALL, message)
    micro, memory, available = _spread(training, data, compute, groups, available_per_worker(compute, gpu_memory))
    if available is not None and memory["total"] > available:
        return Refusal(Reason.DOES_NOT_FIT, _does_not_fit(memory, available))
    stage = largest_stage(data.model, parallelism.pipeline)
    checkpoints, memory = with_checkpoint_copy(memory, compute)
    return TrainingPlan(
        workers_per_node,
        micro,
        PlanStatus(
            strategy=_strategy(groups, parallelism),
            world_size=world,
            parameters=data.model.parameters,
            trainable_parameters=data.model.trainable_parameters,
            total_steps=Course.of(training, rows).steps,
            gradient_accumulation_steps=math.ceil(training.train_batch_size / (groups * micro)),
            per_device_train_batch_size=micro,
            gradient_reduction=gradient_reduction(stage),
            checkpoints=checkpoints,
            reasons={
                "perDeviceTrainBatchSize": why_rows(
                    available, _larger(training, data, compute, groups, micro), parallelism.pipeline
                ),
                "gradientReduction": why_reduction(
                    gradient_reduction(stage), FLOAT * stage.trainable_parameters, UNSHARDED_GRADIENTS
                ),
                "checkpoints": why_checkpoints(checkpoints, compute.resources.limits.get("memory")),
            },
            memory_bytes_per_worker=memory,
            available_bytes_per_worker=available,
        ),
    )


def resolved(spec: FineTuneJobSpec) -> TrainingSpec:
    """`spec.training` with the default of `bf16` for its compute: true on GPUs.

    An H100 multiplies about fifteen times faster in bfloat16 than in float32.
    """
    training = spec.training
    if training.bf16 is not None:
        return training
    return training.model_copy(update={"bf16": spec.compute.gpus_per_node > 0})


def _strategy(groups: int, parallelism: Parallelism) -> str:
    axes = {
        "pipeline": parallelism.pipeline,
        "replicate": parallelism.data_replicate,
        "fsdp": groups // parallelism.data_replicate,
        "tensor": parallelism.tensor,
    }
    return " x ".join(f"{name}{size}" for name, size in axes.items() if size > 1) or "single"


def _not_cut(model: ModelFacts, stages: int) -> Refusal | None:
    """Why this model can't be cut into `stages`; None if it can."""
    if stages == 1:
        return None
    field = f"compute.parallelism.pipeline is {stages}"
    if model.model_type not in PIPELINE_TYPES:
        return Refusal(Reason.PIPELINE_PARALLELISM, _not_tested(field, model, PIPELINE_TYPES))
    if model.num_layers >= stages:
        return None
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


def _spread(
    training: TrainingSpec, data: PrepareResult, compute: Compute, groups: int, limits: Sequence[int]
) -> tuple[int, dict[str, int], int | None]:
    """The largest micro-batch that fits, the memory that it needs, and the limit that it was compared with.

    `limits` are the memory limits of the nodes that may run the pods, ascending. It is unknown which of these nodes
    will run them, so the plan is for the smallest limit that fits at least one row. If no limit does, the smallest
    micro-batch is returned with the largest limit.
    """
    on_gpu, parallelism = compute.gpus_per_node > 0, compute.parallelism
    choices = [
        (micro, memory_per_worker(training, data, groups, micro, on_gpu=on_gpu, parallelism=parallelism))
        for micro in micro_batches(training, groups, parallelism.pipeline)
    ]
    for limit in limits:
        for micro, memory in choices:
            if memory["total"] <= limit:
                return micro, memory, limit
    micro, memory = choices[-1] if limits else choices[0]
    return micro, memory, max(limits, default=None)


def _larger(
    training: TrainingSpec, data: PrepareResult, compute: Compute, groups: int, micro: int
) -> tuple[int, int] | None:
    """The next larger micro-batch that is allowed, and the memory that it needs; None for the largest one."""
    on_gpu, parallelism = compute.gpus_per_node > 0, compute.parallelism
    larger = [size for size in micro_batches(training, groups, parallelism.pipeline) if size > micro]
    if not larger:
        return None
    memory = memory_per_worker(training, data, groups, larger[-1], on_gpu=on_gpu, parallelism=parallelism)
    return larger[-1], memory["total"]


def memory_per_worker(
    training: TrainingSpec,
    data: PrepareResult,
    groups: int,
    micro: int,
    *,
    on_gpu: bool,
    parallelism: Parallelism | None = None,
) -> dict[str, int]:
    """The estimated memory of a worker in bytes. `total` is the largest need of loading, training and export.

    `groups` of workers each read the same rows. With more than two groups no part grows with their number. With a
    pipeline each part is that of the stage which needs the most of it: the first has the activations of as many
    micro-batches as there are stages, the last one has the logits. With
    replicas the shards are those of one replica.
    Weights: in float32; frozen ones of LoRA in half precision if the computation is.
    Gradients: those that are kept over micro-batches are unsharded (FSDP2's `set_requires_gradient_sync`), unless they
    are reduced after each: see `gradient_reduction`.
    Adapters: one of the two matrices of each is whole on all workers of a group; the estimate takes both as whole.
    Gathered: a worker's part of two layers, or of the vocabulary.
    Activations: see `_activations_per_token`; with checkpointing those of one layer, and the input of each layer.
    Logits: log-softmax and its gradient in float32, and the logits and their gradient in half precision, of the tokens
    that are computed at a time. Every worker of a group has them whole.
    Mask: see `_mask`. Scores: in float32, attention on a GPU stores the softmax of each layer.

    `bench/gpu_plan.py` compares this with a GPU. On an H200 the sum of the parts was 0.99 to 1.17 of the allocated
    memory, for 1.2B parameters in full and 8B with LoRA, whose frozen weights were in float32 then.
    """
    stages, tensor = (parallelism.pipeline, parallelism.tensor) if parallelism else (1, 1)
    model, width = largest_stage(data.model, stages), _width(training)
    longest = training.max_length if training.packing else min(training.max_length, data.longest_row_tokens)
    rows = micro * trained_examples_per_sequence(training)
    tokens = rows * longest
    shards = groups // parallelism.data_replicate if parallelism else groups
    workers = shards * tensor  # of a stage, in a replica
    batches = math.ceil(training.train_batch_size / (groups * micro))
    waiting = min(batches, stages)
    accumulating = groups > 1 and batches > 1
    runtime = GPU_RUNTIME_BYTES if on_gpu else RUNTIME_BYTES
    logits = min(tokens, chunk_tokens(model.vocab_size)) if model.chunked_loss else tokens
    kept = accumulating and gradient_reduction(model) == "step"
    trained, frozen = model.trainable_parameters, model.parameters - model.trainable_parameters
    frozen_width = FLOAT if training.adapter.type == "osf" else width
    split = tensor if training.adapter.type == "none" else 1  # over how many workers of a group trained weights are
    parts = {
        "weights": math.ceil(FLOAT * trained / (shards * split) + frozen_width * frozen / workers),
        "gradients": math.ceil(FLOAT * trained * (1 / shards + kept) / split),
        "optimizer": math.ceil(FLOAT * ADAM_STATES * trained / (shards * split)),
        "gathered": GATHERED_LAYERS * width * max(model.largest_layer_parameters, model.embedding_parameters) // tensor,
        "activations": tokens * _activations_per_token(model, training, tensor, waiting),
        "logits": logits * model.vocab_size * (2 * FLOAT + (2 * HALF if training.bf16 else 0)),
        "mask": _mask(model, training, micro, width, waiting)
        if training.packing and not model.document_attention
        else 0,
        "scores": _scores(model, training, rows, tokens, waiting) // tensor if on_gpu and not training.bf16 else 0,
        "runtime": runtime,
    }
    others = {} if on_gpu else {"loading": _loading(model, workers), "export": _exporting(model, workers)}
    return parts | others | {"total": max(sum(parts.values()), *others.values(), 0)}


def gradient_reduction(model: ModelFacts) -> GradientReduction:
    """When to add up the gradients of the workers."""
    return "step" if FLOAT * model.trainable_parameters <= UNSHARDED_GRADIENTS else "microBatch"


def with_checkpoint_copy(memory: dict[str, int], compute: Compute) -> tuple[CheckpointMode, dict[str, int]]:
    """How checkpoints are written, and the memory of a worker with the copy that is written during the training.

    The copy is in the pod's memory, also with GPUs, whose part of the pod's memory is not in `memory`. If the pod's
    limit has no room for it, the training waits for its checkpoints. The copy is freed before the export. It has the
    trained weights and their moments, which are of the same size.
    """
    in_pod = compute.gpus_per_node or compute.workers_per_node
    copy = math.ceil(memory["optimizer"] * (1 + ADAM_STATES) / ADAM_STATES)
    training = sum(memory[part] for part in memory.keys() - {"loading", "export", "total"})
    used = GPU_RUNTIME_BYTES if compute.gpus_per_node else training
    limit = compute.resources.limits.get("memory")
    if limit is not None and used + copy > quantity(limit) // in_pod:
        return "synchronous", memory
    if compute.gpus_per_node:
        return "asynchronous", memory
    return "asynchronous", memory | {"checkpoint": copy, "total": max(memory["total"], training + copy)}


def _loading(model: ModelFacts, workers: int) -> int:
    """Bytes while the weights are read: the shards, and the whole model where rank 0 has to read it first."""
    return RUNTIME_BYTES + math.ceil(FLOAT * model.parameters / workers) + FLOAT * model.parameters * model.loaded_whole


def _exporting(model: ModelFacts, workers: int) -> int:
    """Bytes while the model is written: shards and moments, a gathered weight, and a weight file with its copy."""
    if model.loaded_whole:
        files = FLOAT * model.parameters
    else:
        files = 2 * min(WEIGHT_FILE_BYTES, math.ceil(FLOAT * model.parameters / workers))
    shards = math.ceil(FLOAT * (model.parameters + ADAM_STATES * model.trainable_parameters) / workers)
    return RUNTIME_BYTES + shards + FLOAT * max(model.largest_layer_parameters, model.embedding_parameters) + files


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


def largest_stage(model: ModelFacts, stages: int) -> ModelFacts:
    """The part of the model in the largest stage: its layers, and the embeddings or the output layer."""
    if stages == 1:
        return model
    layers = math.ceil(model.num_layers / stages)
    parameters = min(model.parameters, layers * model.largest_layer_parameters + model.embedding_parameters)
    trainable = math.ceil(model.trainable_parameters * parameters / model.parameters)
    return model.model_copy(update={"num_layers": layers, "parameters": parameters, "trainable_parameters": trainable})


def _width(training: TrainingSpec) -> int:
    """Bytes of a number in the computation."""
    return HALF if training.bf16 else FLOAT


def _activations_per_token(model: ModelFacts, training: TrainingSpec, tensor: int, waiting: int) -> int:
    """Bytes per token that the forward pass keeps for the backward pass, as in transformers' Llama, without scores.

    `waiting`: micro-batches that wait for their backward pass at the same time.

    For each of two norms: the input in float32, the normalised and the scaled output. For the attention: q, k, v, and
    the output before and after its heads are joined. For the MLP: gate, its activation, up, and their product.
    For osf: in each linear layer the input's components along the trained directions, before and after S.
    The workers that share a matrix have a part of each of these, but the norms' input and outputs are whole.
    """
    hidden, intermediate, width = model.hidden_size, model.intermediate_size, _width(training)
    layer = 2 * hidden * FLOAT + width * (4 * hidden + math.ceil((5 * hidden + 4 * intermediate) / tensor))
    if training.adapter.type == "osf":
        layer += math.ceil(2 * LINEAR_LAYERS * width * hidden * (1 - training.adapter.effective_rank))
    if training.gradient_checkpointing:
        return layer + waiting * model.num_layers * hidden * width
    return waiting * layer * model.num_layers


def _mask(model: ModelFacts, training: TrainingSpec, rows: int, width: int, waiting: int) -> int:
    """Bytes of the mask between packed rows: rows x length x length booleans, and as many numbers in every layer.

    144 MiB where `bench/packing.py` measured 147 to 157 MiB.
    """
    layers = 1 if training.gradient_checkpointing else waiting * model.num_layers
    return rows * training.max_length**2 * (1 + width * layers)


def _scores(model: ModelFacts, training: TrainingSpec, rows: int, tokens: int, waiting: int) -> int:
    """Bytes of the attention's softmax in every layer that stores it: rows x heads x length x length."""
    layers = 1 if training.gradient_checkpointing else waiting * model.num_layers
    return FLOAT * layers * model.num_attention_heads * tokens * (tokens // rows)


def _does_not_fit(memory: dict[str, int], available: int) -> str:
    parts = ", ".join(f"{name} {gib(size)}" for name, size in memory.items() if size and name != "total")
    return (
        f"a worker needs about {gib(memory['total'])} even with one row at a time ({parts}), but it has only "
        f"{gib(available)}"
    )
