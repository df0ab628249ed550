"""The first part of prepare: reads, cleans and divides all sources."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from driftloop.api.finetunejob import HELD_OUT_PERCENT, DataStep
from driftloop.contract.reasons import StageReason
from driftloop.contract.task import PrepareTask
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import fetch_file
from driftloop_trainer.data.rows import Row
from driftloop_trainer.prepare.augment import Fence, augmented, read_templates
from driftloop_trainer.prepare.divide import FENCE_THRESHOLD, Divided, divide, replayed
from driftloop_trainer.prepare.feedback import read_feedback
from driftloop_trainer.prepare.setaside import set_aside
from driftloop_trainer.prepare.sources import read_source
from driftloop_trainer.prepare.steps import clean, feedback_wins

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gathered:
    """The rows of a job on both sides of the fence, and the number of dropped rows by reason.

    `validation`: rows of the training side that are not trained on.
    """

    train: list[Row]
    held_out: list[Row]
    dropped: dict[str, int]
    validation: list[Row] = field(default_factory=list)


def gather(task: PrepareTask, scratch: Path, now: datetime) -> Gathered:
    """Read, clean and divide all parts of the data. Raises StageFailure if no row is left for training."""
    data = task.data
    labelled = task.training.method == "kto"
    feedback = read_feedback(task.feedback, now, labelled=labelled) if task.feedback else None
    parts = [
        *(read_source(source, "data", scratch, task.training.method) for source in data.sources),
        *(
            read_source(source, "replay", scratch, task.training.method)
            for source in (data.replay.sources if data.replay else [])
        ),
    ]
    rows = [*(feedback.rows if feedback else []), *(row for part in parts for row in part.rows)]
    left_out = dict(sum((part.dropped for part in parts), Counter[str]()))
    read = len(rows)
    log.info("%d rows read", read)
    rows, contradicted = feedback_wins(rows)
    rows, dropped = clean(rows, data.steps)
    near = [step.threshold for step in data.steps if step.type == "dedupNear"]
    percent = HELD_OUT_PERCENT if data.held_out_percent is None else data.held_out_percent
    salt, threshold = task.held_out_salt or task.family, min(near, default=FENCE_THRESHOLD)
    divided = divide(rows, salt, percent, threshold)
    train = [row for row in divided.train if replayed(row, data.replay.fraction if data.replay else 1.0)]
    if not train:
        raise StageFailure(StageReason.EMPTY_DATA, _why_empty(read, left_out | dropped, divided))
    dropped |= left_out | {"contradicted": contradicted, "nearHeldOut": divided.fenced}
    dropped["notReplayed"] = len(divided.train) - len(train)
    validation: list[Row] = []
    if (settings := task.training.validation) is not None:
        usable = len(train)
        train, validation = set_aside(train, salt, settings, threshold)
        dropped["nearValidation"] = usable - len(train) - len(validation)
    dropped |= {f"feedback.{reason}": count for reason, count in (feedback.skipped if feedback else {}).items()}
    for step in data.steps:
        if step.type == "augment":
            templates = _templates(step, scratch)
            fence = Fence([*divided.held_out, *validation], threshold, salt, percent)
            train = [*train, *augmented(train, fence, step, templates)]
    counts = {step: count for step, count in dropped.items() if count}
    return Gathered(train, divided.held_out, counts, validation)


def _templates(step: DataStep, scratch: Path) -> list[str]:
    if step.templates is None:
        return []
    try:
        content = fetch_file(step.templates, scratch).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise StageFailure(StageReason.BAD_TEMPLATE, f"{step.templates}: not UTF-8: {error}") from error
    return read_templates(content, step.templates)


def _why_empty(read: int, dropped: dict[str, int], divided: Divided) -> str:
    steps = ", ".join(f"{step} dropped {count}" for step, count in dropped.items() if count)
    return (
        f"no row is left for training: {read} rows read, {steps or 'no step dropped any'}, "
        f"{len(divided.held_out)} held out, {divided.fenced} near-duplicates of those; check data.sources, data.steps "
        "and the replay fraction"
    )
