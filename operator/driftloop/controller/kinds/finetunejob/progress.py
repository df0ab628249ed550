"""The progress of training, read from the metrics of the pod with index 0. Information for people only. Pure."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from driftloop.api.finetunejob import LastCheckpoint, Progress
from driftloop.contract.names import MEMORY_KINDS, Metric
from driftloop.contract.result import TrainResult
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp
from driftloop.controller.vocabulary.samples import Sample

READ_EVERY = timedelta(seconds=10)
# Each write of the status is sent to all watchers. So it is written after a visible change, else twice per minute.
WRITE_PERCENT = 5
WRITE_EVERY = timedelta(seconds=30)
MAX_COUNT = 10**15
MAX_TIME = 10**11  # seconds since 1970 that a datetime can hold


def read(samples: Sequence[Sample], now: datetime) -> Progress | None:
    """Progress from the metrics of a pod; None while the number of steps is unknown."""
    metrics = {sample.labels.get("__name__", ""): sample.value for sample in samples}
    step, total = _count(metrics.get(Metric.TRAIN_STEP)), _count(metrics.get(Metric.TRAIN_TOTAL_STEPS))
    if step is None or not total or step > total:
        return None
    skipped = _count(metrics.get(Metric.TRAIN_SKIPPED_STEPS)) or 0
    nodes = _count(metrics.get(Metric.TRAIN_NODES)) or None
    if step == 0:  # the other metrics are 0 until the first step is done, so the ETA of 0s would be wrong
        return Progress(step=0, total_steps=total, percent=0, nodes=nodes, updated=timestamp(now))
    eta, peak = _count(metrics.get(Metric.TRAIN_ETA_SECONDS)), _peak_memory(samples)
    reward, validated = _by_kind(samples, Metric.TRAIN_REWARD), _by_kind(samples, Metric.TRAIN_VALIDATION_LOSS)
    return Progress(
        step=step,
        total_steps=total,
        skipped_steps=skipped,
        percent=100 * step // total,
        eta_seconds=eta,
        eta=duration(eta) if eta is not None else None,
        loss=_short(metrics.get(Metric.TRAIN_LOSS)),
        validation_loss=_short(validated.get("last")),
        best_validation_loss=_short(validated.get("best")),
        best_step=_count(metrics.get(Metric.TRAIN_BEST_STEP)) or None,
        reward_accuracy=_short(reward.get("accuracy")),
        reward_margin=_short(reward.get("margin")),
        nodes=nodes,
        start_seconds=_count(metrics.get(Metric.TRAIN_START_SECONDS)) or None,
        tokens_per_second=_count(metrics.get(Metric.TRAIN_TOKENS_PER_SECOND)),
        model_flops_utilisation=_short(metrics.get(Metric.TRAIN_MFU)),
        peak_memory_bytes_per_worker=peak or None,
        peak_memory=memory(peak),
        checkpoint=_checkpoint(metrics),
        updated=timestamp(now),
    )


def done(result: TrainResult) -> Progress:
    """Progress of a finished training, which may have stopped before its last step."""
    total = max(result.total_steps or 0, result.steps)
    validation = result.validation
    return Progress(
        step=result.steps,
        total_steps=total,
        skipped_steps=result.skipped_steps,
        percent=100 * result.steps // total if total else 100,
        eta_seconds=0,
        eta=duration(0),
        loss=_short(result.loss),
        validation_loss=_short(validation.loss) if validation else None,
        best_validation_loss=_short(validation.best_loss) if validation else None,
        best_step=validation.best_step or None if validation else None,
        reward_accuracy=_short(result.reward.get("accuracy")),
        reward_margin=_short(result.reward.get("margin")),
        tokens_per_second=_count(result.tokens_per_second),
        model_flops_utilisation=_short(result.mfu),
        peak_memory_bytes_per_worker=result.peak_memory_bytes_per_worker or None,
        peak_memory=memory(result.peak_memory_bytes_per_worker),
    )


def stopped_early(result: TrainResult) -> bool:
    """Whether a training has ended before its last step, as its validation loss did not fall any more."""
    return result.total_steps is not None and result.steps < result.total_steps


def validation_message(result: TrainResult) -> str:
    """What the validations did, as the end of a message."""
    parts = []
    if stopped_early(result):
        parts.append(
            f"training stopped early, after {result.steps} of {result.total_steps} steps: for training.validation."
            "patience validations in a row, the loss was not lower than before"
        )
    validation = result.validation
    if validation is not None and validation.exported_step < result.steps:
        best = _short(validation.best_loss)
        parts.append(f"it has the weights of step {validation.exported_step}, where the validation loss was {best}")
    return "".join(f"; {part}" for part in parts)


def newer(old: Progress | None, new: Progress | None) -> Progress | None:
    """The progress for the status: `new` if it differs enough to be written, else `old`.

    A pod that has just started knows of no checkpoint yet, but the last one is still there.
    """
    if old is None or new is None or old.updated is None or new.updated is None:
        return new or old
    counts = [(entry.total_steps, entry.skipped_steps, entry.nodes) for entry in (old, new)]
    moved = abs(new.percent - old.percent) >= WRITE_PERCENT or counts[0] != counts[1]
    aged = parse_timestamp(new.updated) - parse_timestamp(old.updated) >= WRITE_EVERY
    written = new if moved or aged or new.percent == 100 != old.percent else old
    return written.model_copy(update={"checkpoint": written.checkpoint or old.checkpoint})


def duration(seconds: int) -> str:
    """A duration in its two largest units, such as `42s`, `1m05s`, `1h05m` or `2d03h`."""
    minutes, rest = divmod(max(0, seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hours:
        return f"{hours}h{minute:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def memory(peak: Mapping[str, int]) -> str | None:
    """The peak of memory for people, such as `62.10 GiB allocated, 64.52 GiB reserved`; None if it is unknown."""
    return ", ".join(f"{peak[kind] / 2**30:.2f} GiB {kind}" for kind in MEMORY_KINDS if kind in peak) or None


def _peak_memory(samples: Sequence[Sample]) -> dict[str, int]:
    """Bytes by kind, without what no worker can have used."""
    sizes = _by_kind(samples, Metric.TRAIN_PEAK_MEMORY)
    return {kind: size for kind in MEMORY_KINDS if (size := _count(sizes.get(kind)))}


def _by_kind(samples: Sequence[Sample], metric: str) -> dict[str, float]:
    """The values of a metric by its label `kind`."""
    of_metric = (sample for sample in samples if sample.labels.get("__name__") == metric)
    return {sample.labels.get("kind", ""): sample.value for sample in of_metric}


def _checkpoint(metrics: Mapping[str, float]) -> LastCheckpoint | None:
    step, time = _count(metrics.get(Metric.TRAIN_CHECKPOINT_STEP)), _count(metrics.get(Metric.TRAIN_CHECKPOINT_TIME))
    if not step or not time or time > MAX_TIME:
        return None
    return LastCheckpoint(step=step, time=timestamp(datetime.fromtimestamp(time, UTC)))


def _count(value: float | None) -> int | None:
    """A whole number that the API accepts; None for any other value that a pod reports."""
    return round(value) if value is not None and 0 <= value <= MAX_COUNT else None


def _short(value: float | None) -> str | None:
    return f"{value:.4g}" if value is not None and math.isfinite(value) else None
