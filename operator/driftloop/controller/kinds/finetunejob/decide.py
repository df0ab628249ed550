"""FineTuneJob: prepare, plan, train, and the ModelVersion that comes of it. Pure.

The latest stage is looked at first: what is there tells how far the job has come, and status is written, not read,
but for what nothing else remembers (attempt, times, progress, the end itself).
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from driftloop.api.finetunejob import DataStatus, FineTuneJobPhase
from driftloop.contract.result import PrepareResult, TrainResult
from driftloop.contract.task import PrepareTask
from driftloop.controller.kinds import step
from driftloop.controller.kinds.finetunejob import progress, tasks
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.kinds.finetunejob.plan import Refusal, plan
from driftloop.controller.kinds.finetunejob.start import Blocked, Refused, Start, Waiting, start
from driftloop.controller.kinds.step import to_plan
from driftloop.controller.pods import jobs
from driftloop.controller.pods.common import TaskTooLarge
from driftloop.controller.pods.outcome import (
    BENIGN,
    Broken,
    Done,
    Lost,
    Running,
    delete_job,
    finished,
    lost_pods,
    outcome,
)
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.labels import ATTEMPT, DRAFT, STAGE, VERSION
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.plan import Action, Apply, Create, Obj, Plan, Settings
from driftloop.controller.vocabulary.reasons import Reason

RECHECK_SECONDS = 60.0  # something beside the job has to change; most of it wakes us, and this is for the rest
PREPARING = "the data is being prepared"
SETTLE_SECONDS = 10.0  # a finished Job was seen before its pod


Step = step.Step[FineTuneJobPhase]


def decide(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """What to do for the job now."""
    if observed.job["metadata"].get("deletionTimestamp"):
        return Plan()  # what it owns goes with it
    failed, wait = lost_pods(observed.pods, now)
    if (end := _ended(observed)) is not None:
        return Plan(actions=failed, status=end, requeue_after=wait)
    found = _timed(observed, _step(observed, settings, now), now)
    return to_plan(found, observed.job, observed.status, now, failed, wait)


def _ended(observed: Observed) -> Obj | None:
    """The status of a job that has ended: only the generation follows (`suspend` may still be written)."""
    ends = {entry.type for entry in observed.status.conditions if entry.status == "True"}
    if not {"Complete", "Failed"} & ends:
        return None
    generation = observed.job["metadata"].get("generation")
    kept = [entry.model_copy(update={"observed_generation": generation}) for entry in observed.status.conditions]
    return observed.status.model_copy(update={"observed_generation": generation, "conditions": kept}).dump()


def _step(observed: Observed, settings: Settings, now: datetime) -> Step:
    if observed.version is not None:
        return _had_succeeded(observed, observed.version["metadata"]["name"], now)
    if observed.spec.suspend:
        return _suspended(observed)
    if train := _train_job(observed):
        return _trained(observed, settings, train, now)
    if prepare := _named(observed.jobs, jobs.prepare_name(observed.job)):
        return _prepared(observed, settings, prepare, now)
    return _begun(observed, settings)


def _begun(observed: Observed, settings: Settings) -> Step:
    found = start(observed)
    if isinstance(found, Waiting):
        return Step("Pending", conditions.progressing(found.reason, found.message), requeue_after=RECHECK_SECONDS)
    if isinstance(found, Blocked):
        return Step("Pending", conditions.stalled(found.reason, found.message), requeue_after=RECHECK_SECONDS)
    if isinstance(found, Refused):
        return _failed(found.reason, found.message)
    return _create_prepare(observed, settings, found)


def _create_prepare(observed: Observed, settings: Settings, found: Start) -> Step:
    task = tasks.prepare_task(observed, found)
    parent = {VERSION: found.parent} if found.parent else {}
    try:
        body = jobs.prepare_job(observed.job, task, _placement(observed, settings), parent)
    except TaskTooLarge as error:
        return _failed(Reason.TASK_TOO_LARGE, str(error))
    actions = (Apply(jobs.job_policy(observed.job, settings)), Create(body))
    return Step("Preparing", conditions.progressing(Reason.PREPARING, PREPARING), actions)


def _prepared(observed: Observed, settings: Settings, prepare: Obj, now: datetime) -> Step:
    found = outcome(prepare, observed.pods, jobs.PREPARE, now)
    task = jobs.task_of(prepare)
    if isinstance(found, Done) and isinstance(found.result, PrepareResult) and isinstance(task, PrepareTask):
        return _planned(observed, settings, prepare, task, found.result)
    if isinstance(found, Running):
        policy = Apply(jobs.job_policy(observed.job, settings))
        return _underway("Preparing", found, Reason.PREPARING, PREPARING, (policy,))
    return _unfinished("Preparing", found, prepare)


def _planned(observed: Observed, settings: Settings, prepare: Obj, task: PrepareTask, data: PrepareResult) -> Step:
    changes: dict[str, Any] = {"data": _data_status(data)}
    planned = plan(observed.spec, data, observed.gpu_memory)
    if isinstance(planned, Refusal):
        return _failed(planned.reason, planned.message, changes)
    changes["plan"] = planned.status
    attempt = _next_attempt(observed)
    if _left_over(observed):
        message = "waiting for training pods of the previous attempt to stop"
        phase = observed.status.phase or "Planning"  # Suspended still: the attempt that follows counts from it
        return Step(phase, conditions.progressing(Reason.STOPPING, message), (), SETTLE_SECONDS, changes)
    try:
        origin = tasks.lineage(observed, task, data, tasks.parent_of(prepare), settings.trainer_image)
        annotations = {DRAFT: tasks.draft(observed.spec, origin, data)}
        order = tasks.train_task(observed, settings, attempt, task, data, planned, origin)
        body = jobs.train_job(observed.job, order, _placement(observed, settings), annotations)
    except tasks.InvalidResult as error:
        return _failed(Reason.INVALID_RESULT, f"prepare: {error}", changes)
    except TaskTooLarge as error:
        return _failed(Reason.TASK_TOO_LARGE, str(error), changes)
    secret = Create(jobs.ray_secret(observed.job, observed.fresh_secret, settings))
    actions = (*_network(observed, settings), secret, Create(body))
    return Step(
        "Training",
        conditions.progressing(Reason.TRAINING, _training(observed)),
        actions,
        progress.READ_EVERY.total_seconds(),
        changes | {"attempt": attempt},
    )


def _trained(observed: Observed, settings: Settings, train: Obj, now: datetime) -> Step:
    found = outcome(train, observed.pods, jobs.TRAIN, now)
    changes = {"attempt": _attempt_of(train)} | _known_data(observed, now)
    if isinstance(found, Done) and isinstance(found.result, TrainResult):
        return _versioned(observed, train, found.result, changes)
    if isinstance(found, Running):
        step = _underway("Training", found, Reason.TRAINING, _training(observed), _network(observed, settings))
        shown = progress.newer(observed.status.progress, observed.progress)
        return replace(step, changes=changes | {"progress": shown}, requeue_after=progress.READ_EVERY.total_seconds())
    return replace(_unfinished("Training", found, train), changes=changes)


def _versioned(observed: Observed, train: Obj, result: TrainResult, changes: dict[str, Any]) -> Step:
    try:
        body = tasks.model_version(observed, train, result)
    except tasks.InvalidResult as error:
        return _failed(Reason.INVALID_RESULT, f"train: {error}", changes)
    step = _succeeded(body["metadata"]["name"], result)
    return replace(step, actions=(Create(body),), changes=changes | step.changes)


def _succeeded(version: str, result: TrainResult | None) -> Step:
    message = f"ModelVersion {version} was created"
    changes: dict[str, Any] = {"version": version}
    if result is not None:
        changes["progress"] = progress.done(result)
    return Step("Succeeded", conditions.complete(Reason.SUCCEEDED, message), changes=changes)


def _had_succeeded(observed: Observed, version: str, now: datetime) -> Step:
    """The version is there and the status doesn't know: a crash between the two writes, or a wiped status."""
    train = _train_job(observed)
    found = outcome(train, observed.pods, jobs.TRAIN, now) if train else None
    result = found.result if isinstance(found, Done) and isinstance(found.result, TrainResult) else None
    step = _succeeded(version, result)
    known = {"attempt": _attempt_of(train)} if train else {}
    return replace(step, changes=known | _known_data(observed, now) | step.changes)


def _suspended(observed: Observed) -> Step:
    """Delete what is at work. Checkpoints lie in storage; the next attempt goes on from the last one."""
    working = [job for job in observed.jobs if not finished(job)]
    if not working and not _left_over(observed):
        condition = conditions.condition("Ready", "False", Reason.SUSPENDED, "suspended; spec.suspend: false resumes")
        return Step("Suspended", [condition])
    actions = tuple(delete_job(job) for job in working if not job["metadata"].get("deletionTimestamp"))
    phase = observed.status.phase or "Pending"
    return Step(phase, conditions.progressing(Reason.SUSPENDING, "its pods are being stopped"), actions, SETTLE_SECONDS)


def _underway(
    phase: FineTuneJobPhase, found: Running, usual: Reason, message: str, beside: Iterable[Action] = ()
) -> Step:
    """A stage at work: what keeps its pods from running is told, and while all is well nothing is written.

    Before its pods were created their policies were; now one that can't be written again stops nothing.
    """
    benign = found.reason in BENIGN
    reason, said = (usual, message) if benign else (found.reason, f"{message}: {found.message}")
    return Step(phase, conditions.progressing(reason, said), requeue_after=SETTLE_SECONDS, beside=tuple(beside))


def _training(observed: Observed) -> str:
    return f"the model is being trained, nodes: {observed.spec.compute.nodes}"


def _unfinished(phase: FineTuneJobPhase, found: Done | Broken | Lost | Running, job: Obj) -> Step:
    """A stage that ended without a result to go on with."""
    if isinstance(found, Lost):
        message = f"Job {job['metadata']['name']} ended, its result is gone with its pod: it runs again"
        return Step(phase, conditions.progressing(Reason.RESULT_LOST, message), (delete_job(job),), SETTLE_SECONDS)
    if isinstance(found, Broken):
        return _failed(found.reason, found.message)
    return _failed(Reason.INVALID_RESULT, f"Job {job['metadata']['name']} ended with the result of another stage")


def _failed(reason: str, message: str, changes: dict[str, Any] | None = None) -> Step:
    return Step("Failed", conditions.failed(reason, message), changes=changes or {})


def _timed(observed: Observed, found: Step, now: datetime) -> Step:
    """The step with the times of start and end, where it is one of these."""
    times: dict[str, Any] = {}
    if observed.status.started is None and found.phase not in ("Pending", "Suspended"):
        times["started"] = conditions.timestamp(now)
    if found.phase in ("Succeeded", "Failed"):
        times["finished"] = conditions.timestamp(now)
    return replace(found, changes=times | found.changes)


def _known_data(observed: Observed, now: datetime) -> dict[str, Any]:
    """Data and plan for a status that lost them, while prepare's result is still to be had."""
    prepare = _named(observed.jobs, jobs.prepare_name(observed.job))
    if prepare is None or (observed.status.data and observed.status.plan):
        return {}
    found = outcome(prepare, observed.pods, jobs.PREPARE, now)
    if not isinstance(found, Done) or not isinstance(found.result, PrepareResult):
        return {}
    planned = plan(observed.spec, found.result, observed.gpu_memory)
    known = {"plan": planned.status} if not isinstance(planned, Refusal) else {}
    return {"data": _data_status(found.result)} | known


def _data_status(data: PrepareResult) -> DataStatus:
    return DataStatus.model_validate(data.model_dump(include=set(DataStatus.model_fields)))


def _train_job(observed: Observed) -> Obj | None:
    """The train Job of the latest attempt."""
    trains = [job for job in observed.jobs if (job["metadata"].get("labels") or {}).get(STAGE) == jobs.TRAIN]
    return max(trains, key=_attempt_of, default=None)


def _attempt_of(job: Obj) -> int:
    found = (job["metadata"].get("labels") or {}).get(ATTEMPT) or ""
    return int(found) if found.isdecimal() else 1


def _next_attempt(observed: Observed) -> int:
    """One more only after a suspension was written down: a stale cache that misses the Job starts nothing twice."""
    before = observed.status.attempt
    return before + 1 if observed.status.phase == "Suspended" else max(before, 1)


def _left_over(observed: Observed) -> bool:
    """Training pods still at work whose Job is gone."""
    uids = {job["metadata"]["uid"] for job in observed.jobs}
    return any(
        (pod.get("status") or {}).get("phase") in ("Pending", "Running")
        and (pod["metadata"].get("labels") or {}).get(STAGE) == jobs.TRAIN
        and not any(controlled_by(pod, uid) for uid in uids)
        for pod in observed.pods
    )


def _named(objects: Iterable[Obj], name: str) -> Obj | None:
    return next((obj for obj in objects if obj["metadata"]["name"] == name), None)


def _network(observed: Observed, settings: Settings) -> tuple[Action, ...]:
    return Apply(jobs.job_policy(observed.job, settings)), Apply(jobs.train_service(observed.job, settings))


def _placement(observed: Observed, settings: Settings) -> jobs.Placement:
    return jobs.Placement(observed.spec.compute, observed.spec.pod_overrides, settings)
