"""The facts of one reconcile of a job, each computed once. Pure.

Observed (what was read)  ->  Stages (how far the job is)  ->  decide (what to do)
"""

from dataclasses import dataclass
from datetime import datetime

from driftloop.api.finetunejob import Adjustment, FineTuneJobSpec
from driftloop.contract.result import PrepareResult, TrainResult
from driftloop.controller.kinds.finetunejob import ladder
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.kinds.stage import Stage, stage
from driftloop.controller.pods import jobs
from driftloop.controller.pods.outcome import outcome
from driftloop.controller.vocabulary.labels import ADJUSTMENTS, ATTEMPT, STAGE
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.objects import annotations, labels, phase
from driftloop.controller.vocabulary.plan import Obj, Settings


@dataclass(frozen=True)
class Stages:
    """How far a job is."""

    observed: Observed  # the objects that were read
    settings: Settings  # settings of the operator
    now: datetime  # time of this reconcile
    attempt: int  # number of the latest training attempt; without a train Job, number of the next attempt
    prepare: Stage[PrepareResult] | None = None  # None before its Job is created
    train: Stage[TrainResult] | None = None  # of the latest attempt; None before its Job is created
    left_over: bool = False  # whether pods of a deleted train Job are still running
    adjustments: tuple[Adjustment, ...] = ()  # what was lowered after attempts that ran out of memory

    @property
    def spec(self) -> FineTuneJobSpec:
        """The job's spec with what was lowered."""
        return ladder.lowered(self.observed.spec, self.adjustments)

    @property
    def is_adjusted(self) -> bool:
        """Whether the next attempt is to replace the latest one, which ran out of memory."""
        return bool(self.adjustments) and self.adjustments[-1].attempt == self.attempt


def stages_of(observed: Observed, settings: Settings, now: datetime) -> Stages:
    """Read from the Jobs and pods how far the job is."""
    prepare, train = _prepare_job(observed), _train_job(observed)
    return Stages(
        observed=observed,
        settings=settings,
        now=now,
        attempt=_attempt_of(train) if train else _next_attempt(observed),
        prepare=stage(prepare, outcome(prepare, observed.pods, jobs.PREPARE, now), PrepareResult) if prepare else None,
        train=stage(train, outcome(train, observed.pods, jobs.TRAIN, now), TrainResult) if train else None,
        left_over=_has_left_over(observed),
        adjustments=_adjustments(observed, train),
    )


def _prepare_job(observed: Observed) -> Obj | None:
    name = jobs.prepare_name(observed.job)
    return next((job for job in observed.jobs if job["metadata"]["name"] == name), None)


def _train_job(observed: Observed) -> Obj | None:
    """The train Job of the latest attempt."""
    trains = [job for job in observed.jobs if labels(job).get(STAGE) == jobs.TRAIN]
    return max(trains, key=_attempt_of, default=None)


def _attempt_of(train: Obj) -> int:
    number = labels(train).get(ATTEMPT) or ""
    return int(number) if number.isdecimal() else 1


def _next_attempt(observed: Observed) -> int:
    """The number rises only after the status says Suspended, or that the previous attempt ran out of memory.

    So a stale cache that does not contain the train Job yet can't start a second attempt.
    """
    previous = observed.status.attempt
    short = any(entry.attempt == previous for entry in observed.status.adjustments or ())
    return previous + 1 if observed.status.phase == "Suspended" or short else max(previous, 1)


def _adjustments(observed: Observed, train: Obj | None) -> tuple[Adjustment, ...]:
    """From the status; a status that has lost them gets them from the train Job."""
    if observed.status.adjustments:
        return tuple(observed.status.adjustments)
    return ladder.decode(annotations(train).get(ADJUSTMENTS) or "[]") if train else ()


def _has_left_over(observed: Observed) -> bool:
    uids = {job["metadata"]["uid"] for job in observed.jobs}
    return any(
        phase(pod) in ("Pending", "Running")
        and labels(pod).get(STAGE) == jobs.TRAIN
        and not any(controlled_by(pod, uid) for uid in uids)
        for pod in observed.pods
    )
