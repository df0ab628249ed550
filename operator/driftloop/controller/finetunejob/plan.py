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
# Python, torch and Ray's share of a worker: about 0.4 GiB resident were measured on CPU.
RUNTIME_BYTES = 512 << 20
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
    memory = memory_per_worker(training, data, world, micro)
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


def memory_per_worker(training: TrainingSpec, data: PrepareResult, world: int, micro: int) -> dict[str, int]:
    """Estimate in bytes. No part grows with `world`.

    Activations: s·b·h·(18 + 4·ffn/h) bytes a layer at 16 bit, with attention that is not kept (Korthikanti et al. 2022,
    as in Megatron's theoretical_memory_usage.py); with checkpointing one layer of them and every layer's input.
    Logits: a copy in float32 and its gradient.
    """
    model, width = data.model, HALF if training.bf16 else FLOAT
    tokens = micro * (training.max_length if training.packing else min(training.max_length, data.longest_row_tokens))
    parts = {
        "weights": math.ceil(FLOAT * model.parameters / world),
        "gradients": math.ceil(FLOAT * model.trainable_parameters / world),
        "optimizer": math.ceil(FLOAT * ADAM_STATES * model.trainable_parameters / world),
        "gathered": GATHERED_LAYERS * width * max(model.largest_layer_parameters, model.embedding_parameters),
        "activations": tokens * _activations_per_token(model, width, training.gradient_checkpointing),
        "logits": tokens * model.vocab_size * 2 * FLOAT,
        "runtime": RUNTIME_BYTES,
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
    layer = (18 * model.hidden_size + 4 * model.intermediate_size) * width // HALF
    if checkpointing:
        return layer + model.num_layers * model.hidden_size * width
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
