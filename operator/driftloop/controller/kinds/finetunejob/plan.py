"""How a model is spread over the pods, how many steps it takes, and whether it fits. Pure.

FSDP2 over all workers: each holds 1/N of parameters, gradients and optimizer state, and gathers one layer at a time.
The estimate is meant to refuse what cannot run, before a node is taken; what is near the limit is for the reader.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from driftloop.api.finetunejob import Compute, FineTuneJobSpec, PlanStatus, TrainingSpec
from driftloop.contract.course import Course
from driftloop.contract.result import ModelFacts, PrepareResult
from driftloop.controller.vocabulary.quantity import quantity
from driftloop.controller.vocabulary.reasons import Reason

FLOAT, HALF = 4, 2  # bytes
ADAM_STATES = 2  # AdamW keeps two moments, float32 as the weights
# Python, torch and Ray's share of a worker's memory: about 0.4 GiB resident were measured. Of a GPU's: CUDA, cuBLAS and
# NCCL had taken 1.9 GiB beside a model of 1.2B parameters on an H200.
RUNTIME_BYTES, GPU_RUNTIME_BYTES = 512 << 20, 2048 << 20
# torch prefetches the next layer while one computes.
GATHERED_LAYERS = 2

# Of a GPU's memory: the driver's own share, and what the allocator can't use between its blocks.
USABLE = 0.95


@dataclass(frozen=True)
class TrainingPlan:
    """What the train stage is told; `status` is the same for people."""

    workers_per_node: int
    per_device_train_batch_size: int
    status: PlanStatus


@dataclass(frozen=True)
class Refusal:
    """Why it can't be trained like this. The spec being immutable, that is final."""

    reason: Reason
    message: str


def plan(spec: FineTuneJobSpec, data: PrepareResult, gpu_memory: Sequence[int] = ()) -> TrainingPlan | Refusal:
    """Spread the model over `spec.compute`, or say why not.

    `gpu_memory`: bytes of a GPU on each node that may take the pods, where that is known. The spec's word goes first.
    """
    training, compute = resolved(spec), spec.compute
    workers_per_node = compute.gpus_per_node or compute.workers_per_node
    world = compute.nodes * workers_per_node
    rows = data.sequences or data.train_rows
    if rows == 0 or data.trained_tokens == 0:
        counted = f"{data.train_rows} training rows, {data.trained_tokens} of their tokens count in the loss"
        return Refusal(Reason.NO_TRAINING_ROWS, f"{counted}: check data.sources, their columns and training.lossOn")
    if training.train_batch_size < world:
        message = f"training.trainBatchSize is {training.train_batch_size}, below the {world} workers: raise it"
        return Refusal(Reason.BATCH_TOO_SMALL, message)
    micro, memory, available = _spread(training, data, compute, world, available_per_worker(compute, gpu_memory))
    if available is not None and memory["total"] > available:
        return Refusal(Reason.DOES_NOT_FIT, _does_not_fit(memory, available, compute))
    return TrainingPlan(
        workers_per_node,
        micro,
        PlanStatus(
            strategy=f"fsdp{world}" if world > 1 else "single",
            world_size=world,
            parameters=data.model.parameters,
            trainable_parameters=data.model.trainable_parameters,
            total_steps=Course.of(training, rows).steps,
            gradient_accumulation_steps=math.ceil(training.train_batch_size / (world * micro)),
            memory_bytes_per_worker=memory,
            available_bytes_per_worker=available,
        ),
    )


def resolved(spec: FineTuneJobSpec) -> TrainingSpec:
    """`spec.training` with what its compute decides: without a word on it, GPUs compute in bfloat16.

    An H100 multiplies bfloat16 at some fifteen times its pace in float32.
    """
    training = spec.training
    if training.bf16 is not None:
        return training
    return training.model_copy(update={"bf16": spec.compute.gpus_per_node > 0})


def micro_batches(training: TrainingSpec, world: int) -> Iterator[int]:
    """Rows that a worker may take at once, falling: the most that the spec allows, then ever smaller equal parts."""
    share = math.ceil(training.train_batch_size / world)
    micro = min(training.per_device_train_batch_size, share)
    yield micro
    for parts in range(math.ceil(share / micro) + 1, share + 1):
        if (smaller := math.ceil(share / parts)) < micro:
            yield smaller
            micro = smaller


def _spread(
    training: TrainingSpec, data: PrepareResult, compute: Compute, world: int, rooms: Sequence[int]
) -> tuple[int, dict[str, int], int | None]:
    """Micro-batch, its memory, and the room that it is measured against: the largest one that fits.

    `rooms` are those of the nodes that may take the pods, rising. Which of them will is not known yet, so the plan is
    made for the smallest that takes a single row; what not even the largest takes comes back as it is.
    """
    on_gpu = compute.gpus_per_node > 0
    choices = [(m, memory_per_worker(training, data, world, m, on_gpu=on_gpu)) for m in micro_batches(training, world)]
    for room in rooms:
        for micro, memory in choices:
            if memory["total"] <= room:
                return micro, memory, room
    micro, memory = choices[-1] if rooms else choices[0]
    return micro, memory, max(rooms, default=None)


def memory_per_worker(
    training: TrainingSpec, data: PrepareResult, world: int, micro: int, *, on_gpu: bool
) -> dict[str, int]:
    """Estimate in bytes; `total` is the larger of what loading and what training takes.

    Beyond two workers no part grows with their number. Loading: each worker has the whole model in float32 before it
    keeps its share. Gradients: while they are accumulated over micro-batches, sharded workers hold them whole (FSDP2's
    `set_requires_gradient_sync`). Activations: see `_activations_per_token`; with checkpointing one layer of them and
    every layer's input. Logits: log-softmax and its gradient in float32, and what the model gave and got back in half
    precision. Scores: in float32 a GPU has no kernel that keeps none, and each layer keeps its softmax.

    `bench/gpu_plan.py` compares it with a GPU: on an H200 the sum of the parts came to 0.99 to 1.17 of what was
    allocated, for 1.2B parameters in full and 8B with LoRA.
    """
    model, width = data.model, HALF if training.bf16 else FLOAT
    tokens = micro * (training.max_length if training.packing else min(training.max_length, data.longest_row_tokens))
    accumulating = world > 1 and training.train_batch_size > world * micro
    runtime = GPU_RUNTIME_BYTES if on_gpu else RUNTIME_BYTES
    parts = {
        "weights": math.ceil(FLOAT * model.parameters / world),
        "gradients": math.ceil(FLOAT * model.trainable_parameters * (1 / world + accumulating)),
        "optimizer": math.ceil(FLOAT * ADAM_STATES * model.trainable_parameters / world),
        "gathered": GATHERED_LAYERS * width * max(model.largest_layer_parameters, model.embedding_parameters),
        "activations": tokens * _activations_per_token(model, width, training.gradient_checkpointing),
        "logits": tokens * model.vocab_size * (2 * FLOAT + (2 * HALF if training.bf16 else 0)),
        "scores": _scores(model, training, micro, tokens) if on_gpu and not training.bf16 else 0,
        "runtime": runtime,
    }
    loading = FLOAT * model.parameters
    return parts | {"loading": loading, "total": max(sum(parts.values()), loading + runtime)}


def available_per_worker(compute: Compute, gpu_memory: Sequence[int] = ()) -> list[int]:
    """Bytes that a worker may have on each node that may take it, rising; empty where nobody knows.

    On CPU it is the pod's memory limit, shared by its workers; with GPUs what `compute.gpuMemory` says, else the nodes.
    """
    if compute.gpus_per_node:
        known = [quantity(compute.gpu_memory)] if compute.gpu_memory is not None else sorted(set(gpu_memory))
        return [int(USABLE * size) for size in known]
    limit = compute.resources.limits.get("memory")
    return [] if limit is None else [quantity(limit) // compute.workers_per_node]


def _activations_per_token(model: ModelFacts, width: int, checkpointing: bool) -> int:
    """What backward needs of the forward pass, counted in transformers' Llama (attention's scores are not kept).

    Each of two norms: its input in float32, the normalised and the scaled; q, k, v and the attention's output, before
    and after its heads are joined; the MLP's gate, its activation, up and their product.
    """
    hidden, intermediate = model.hidden_size, model.intermediate_size
    layer = 2 * hidden * FLOAT + width * (4 * hidden + 5 * hidden + 4 * intermediate)
    if checkpointing:
        return layer + model.num_layers * hidden * width
    return layer * model.num_layers


def _scores(model: ModelFacts, training: TrainingSpec, rows: int, tokens: int) -> int:
    """The attention's softmax, of every layer that is kept: rows x heads x length x length."""
    layers = 1 if training.gradient_checkpointing else model.num_layers
    return FLOAT * layers * model.num_attention_heads * tokens * (tokens // rows)


def _does_not_fit(memory: dict[str, int], available: int, compute: Compute) -> str:
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in memory.items() if name != "total")
    room = "take GPUs of more memory" if compute.gpus_per_node else "raise compute.resources.limits.memory"
    return (
        f"a worker needs about {_gib(memory['total'])} even with one row at a time ({parts}) and has "
        f"{_gib(available)}: raise compute.nodes (now {compute.nodes}), {room}, lower training.maxLength, or set "
        "gradientCheckpointing, bf16 or a LoRA adapter; loading takes the whole model in float32 on each worker, "
        "however many there are"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
