"""How a model is spread over the pods, how many steps it takes, and whether it fits. Pure.

FSDP2 over all workers: each holds 1/N of parameters, gradients and optimizer state, and gathers one layer at a time.
The estimate is meant to refuse what cannot run, before a node is taken; what is near the limit is for the reader.
"""

import math
from dataclasses import dataclass

from driftloop.api.finetunejob import Compute, FineTuneJobSpec, PlanStatus, TrainingSpec
from driftloop.contract.result import ModelFacts, PrepareResult
from driftloop.controller.reasons import Reason

FLOAT, HALF = 4, 2  # bytes
ADAM_STATES = 2  # AdamW keeps two moments, float32 as the weights
# Python, torch and Ray's share of a worker's memory: about 0.4 GiB resident were measured. Of a GPU's: CUDA, cuBLAS and
# NCCL had taken 1.4 GiB with a model of 1.1M parameters on an H200.
RUNTIME_BYTES, GPU_RUNTIME_BYTES = 512 << 20, 1536 << 20
# torch prefetches the next layer while one computes.
GATHERED_LAYERS = 2

_SUFFIXES = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


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


def plan(spec: FineTuneJobSpec, data: PrepareResult) -> TrainingPlan | Refusal:
    """Spread the model over `spec.compute`, or say why not."""
    training, compute = spec.training, spec.compute
    workers_per_node = compute.gpus_per_node or compute.workers_per_node
    world = compute.nodes * workers_per_node
    rows = data.sequences or data.train_rows
    if rows == 0 or data.trained_tokens == 0:
        counted = f"{data.train_rows} training rows, {data.trained_tokens} of their tokens count in the loss"
        return Refusal(Reason.NO_TRAINING_ROWS, f"{counted}: check data.sources, their columns and training.lossOn")
    if training.train_batch_size < world:
        message = f"training.trainBatchSize is {training.train_batch_size}, below the {world} workers: raise it"
        return Refusal(Reason.BATCH_TOO_SMALL, message)
    micro = micro_batch(training, world)
    memory = memory_per_worker(training, data, world, micro, on_gpu=compute.gpus_per_node > 0)
    available = available_per_worker(compute)
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
            total_steps=total_steps(training, rows),
            gradient_accumulation_steps=math.ceil(training.train_batch_size / (world * micro)),
            memory_bytes_per_worker=memory,
            available_bytes_per_worker=available,
        ),
    )


def micro_batch(training: TrainingSpec, world: int) -> int:
    """Rows that a worker takes at once: its share of the batch, at most what the spec allows."""
    return min(training.per_device_train_batch_size, math.ceil(training.train_batch_size / world))


def total_steps(training: TrainingSpec, rows: int) -> int:
    """Optimizer steps: `max_steps`, or what the epochs come to, the last step of them being a smaller one."""
    by_epochs = math.ceil(rows * training.num_train_epochs / training.train_batch_size)
    return training.max_steps or max(1, by_epochs)


def memory_per_worker(
    training: TrainingSpec, data: PrepareResult, world: int, micro: int, *, on_gpu: bool
) -> dict[str, int]:
    """Estimate in bytes. No part grows with `world`.

    Activations: see `_activations_per_token`; with checkpointing one layer of them and every layer's input. Logits:
    float32, their log-softmax, and what the model gave in half precision.
    """
    model, width = data.model, HALF if training.bf16 else FLOAT
    tokens = micro * (training.max_length if training.packing else min(training.max_length, data.longest_row_tokens))
    parts = {
        "weights": math.ceil(FLOAT * model.parameters / world),
        "gradients": math.ceil(FLOAT * model.trainable_parameters / world),
        "optimizer": math.ceil(FLOAT * ADAM_STATES * model.trainable_parameters / world),
        "gathered": GATHERED_LAYERS * width * max(model.largest_layer_parameters, model.embedding_parameters),
        "activations": tokens * _activations_per_token(model, width, training.gradient_checkpointing),
        "logits": tokens * model.vocab_size * (2 * FLOAT + (HALF if training.bf16 else 0)),
        "runtime": GPU_RUNTIME_BYTES if on_gpu else RUNTIME_BYTES,
    }
    return parts | {"total": sum(parts.values())}


def available_per_worker(compute: Compute) -> int | None:
    """Bytes that the pod's memory limit leaves a worker; None where nobody set a limit, or a GPU's memory decides."""
    limit = compute.resources.limits.get("memory")
    if limit is None or compute.gpus_per_node:
        return None
    return quantity(limit) // compute.workers_per_node


def quantity(text: str) -> int:
    """A Kubernetes quantity as a number, rounded down."""
    suffix = text.lstrip("0123456789.")
    return int(float(text.removesuffix(suffix)) * _SUFFIXES.get(suffix, 1))


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


def _does_not_fit(memory: dict[str, int], available: int, compute: Compute) -> str:
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in memory.items() if name != "total")
    return (
        f"a worker needs about {_gib(memory['total'])} ({parts}) and has {_gib(available)}: raise compute.nodes "
        f"(now {compute.nodes}) or compute.resources.limits.memory, lower training.perDeviceTrainBatchSize or "
        "training.maxLength, or set gradientCheckpointing, bf16 or a LoRA adapter"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
