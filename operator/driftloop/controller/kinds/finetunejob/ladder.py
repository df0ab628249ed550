"""What the next attempt of a training lowers after one that ran out of memory. Pure.

The rungs, in this order: half of the rows per forward pass, down to one row, then gradient checkpointing. None of them
changes the rows of a step or the result: more passes are accumulated, and the loss is the same sum over tokens.
"""

import json
from collections.abc import Sequence
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from driftloop.api.finetunejob import Adjustment, FineTuneJobSpec
from driftloop.contract.task import TrainTask
from driftloop.controller.pods.outcome import Broken
from driftloop.controller.vocabulary.conditions import shorten, timestamp

MAX_MESSAGE = 512
_ADAPTER: TypeAdapter[list[Adjustment]] = TypeAdapter(list[Adjustment])


def next_rung(task: TrainTask, shortage: Broken, now: datetime) -> Adjustment | None:
    """What the attempt after `task` lowers. None if nothing is left to lower."""
    rows, checkpointing = task.per_device_train_batch_size, task.training.gradient_checkpointing
    if rows == 1 and checkpointing:
        return None
    return Adjustment(
        attempt=task.attempt,
        time=timestamp(now),
        reason=shortage.reason,
        message=shorten(shortage.message, MAX_MESSAGE),
        per_device_train_batch_size=max(1, rows // 2),
        gradient_checkpointing=checkpointing or rows == 1,
    )


def lowered(spec: FineTuneJobSpec, adjustments: Sequence[Adjustment]) -> FineTuneJobSpec:
    """The spec with the settings of the last adjustment."""
    if not adjustments:
        return spec
    last = adjustments[-1]
    training = spec.training.model_copy(
        update={
            "per_device_train_batch_size": last.per_device_train_batch_size,
            "gradient_checkpointing": last.gradient_checkpointing,
        }
    )
    return spec.model_copy(update={"training": training})


def adjustment_message(task: TrainTask, rung: Adjustment) -> str:
    """The message about an adjustment."""
    before = task.per_device_train_batch_size
    if rung.per_device_train_batch_size < before:
        change = f"at most {rung.per_device_train_batch_size} instead of {before} rows per forward pass"
    else:
        change = "gradientCheckpointing: true"
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
