"""What the next attempt of a training lowers after one that ran out of memory. Pure.

The rungs, in this order: half of the rows per forward pass, down to one row, then gradient checkpointing, then the loss
of fewer tokens at a time. None of them changes the rows of a step or the result: more passes are accumulated, and the
loss is the same sum over tokens. None of them helps an attempt that could not hold the model itself, or a pod with GPUs
whose own memory is too small: what they lower is in the memory of the GPU.
"""

import json
from collections.abc import Sequence
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from driftloop.api.finetunejob import Adjustment, FineTuneJobSpec
from driftloop.contract.result import PrepareResult
from driftloop.contract.task import TrainTask
from driftloop.controller.kinds.finetunejob.memory import memory_per_worker
from driftloop.controller.pods.outcome import OOM_KILLED, Broken
from driftloop.controller.vocabulary.conditions import shorten, timestamp
from driftloop.controller.vocabulary.quantity import quantity

MAX_MESSAGE = 512
# Limits of the logits' memory. The lower one is about the 64 tokens below which a matrix product becomes slow.
LOGITS = ("64Mi", "16Mi")
_ADAPTER: TypeAdapter[list[Adjustment]] = TypeAdapter(list[Adjustment])


def next_rung(task: TrainTask, data: PrepareResult | None, shortage: Broken, now: datetime) -> Adjustment | None:
    """What the attempt after `task` lowers. None if nothing is left to lower, or if nothing of it would help.

    `data`: what the attempt trains on, if the result of prepare is still there.
    """
    rows, checkpointing = task.per_device_train_batch_size, task.training.gradient_checkpointing
    logits = _fewer_logits(task, data) if rows == 1 and checkpointing else None
    of_pod = task.gpus_per_node > 0 and shortage.reason == OOM_KILLED
    if shortage.phase is not None or of_pod or (rows == 1 and checkpointing and logits is None):
        return None
    return Adjustment(
        attempt=task.attempt,
        time=timestamp(now),
        reason=shortage.reason,
        message=shorten(shortage.message, MAX_MESSAGE),
        per_device_train_batch_size=max(1, rows // 2),
        gradient_checkpointing=checkpointing or rows == 1,
        logits_memory=logits,
    )


def _fewer_logits(task: TrainTask, data: PrepareResult | None) -> str | None:
    """The next lower limit of the logits' memory, with which there are fewer at a time; None if none is left.

    Without `data` each lower limit is tried: it is not known which of them matters.
    """
    lower = [limit for limit in LOGITS if quantity(limit) < task.logits_bytes]
    if data is None:
        return next(iter(lower), None)
    now = _logits(task, data, task.training.logits_memory)
    return next((limit for limit in lower if _logits(task, data, limit) < now), None)


def _logits(task: TrainTask, data: PrepareResult, limit: str | None) -> int:
    """The estimated bytes of the logits of one row."""
    training = task.training.model_copy(update={"logits_memory": limit})
    on_gpu = task.gpus_per_node > 0
    return memory_per_worker(training, data, 1, 1, on_gpu=on_gpu, parallelism=task.parallelism)["logits"]


def lowered(spec: FineTuneJobSpec, adjustments: Sequence[Adjustment]) -> FineTuneJobSpec:
    """The spec with the settings of the last adjustment."""
    if not adjustments:
        return spec
    last = adjustments[-1]
    training = spec.training.model_copy(
        update={
            "per_device_train_batch_size": last.per_device_train_batch_size,
            "gradient_checkpointing": last.gradient_checkpointing,
            "logits_memory": last.logits_memory or spec.training.logits_memory,
        }
    )
    return spec.model_copy(update={"training": training})


def adjustment_message(task: TrainTask, rung: Adjustment) -> str:
    """The message about an adjustment."""
    before = task.per_device_train_batch_size
    if rung.per_device_train_batch_size < before:
        change = f"at most {rung.per_device_train_batch_size} instead of {before} rows per forward pass"
    elif rung.gradient_checkpointing > task.training.gradient_checkpointing:
        change = "gradientCheckpointing: true"
    else:
        change = f"logitsMemory: {rung.logits_memory}"
    return (
        f"attempt {rung.attempt} ran out of memory: {rung.message}: attempt {rung.attempt + 1} goes on from the last "
        f"checkpoint with {change}"
    )


def encode(adjustments: Sequence[Adjustment]) -> str:
    """The adjustments as JSON, for an annotation of the train Job."""
    return json.dumps([entry.dump() for entry in adjustments], sort_keys=True, separators=(",", ":"))


def decode(text: str) -> tuple[Adjustment, ...]:
    """The adjustments of an annotation; none if it was changed."""
    try:
        return tuple(_ADAPTER.validate_json(text))
    except ValidationError:
        return ()
