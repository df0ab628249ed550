"""The decision on a FineTuneJob: prepare, plan, train, create the ModelVersion. Pure.

The latest stage is checked first: the existing objects show how far the job is. The status is read only for what no
other object records (attempt, times, progress, and that the job has ended).
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, assert_never

from driftloop.api.finetunejob import ENDED, DataStatus, FineTuneJobPhase, Progress
from driftloop.contract.phase import BesideSteps
from driftloop.contract.result import PrepareResult, TrainResult
from driftloop.controller.kinds import step as steps
from driftloop.controller.kinds.engines import obstacle
from driftloop.controller.kinds.finetunejob import ladder, progress, tasks
from driftloop.controller.kinds.finetunejob.leading import make_room
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.kinds.finetunejob.plan import Refusal, TrainingPlan, plan, plan_of_running, with_what_it_had
from driftloop.controller.kinds.finetunejob.remedies import plan_or_remedy, remedy_after
from driftloop.controller.kinds.finetunejob.stages import Stages, stages_of
from driftloop.controller.kinds.finetunejob.start import Blocked, Refused, Start, Waiting, start
from driftloop.controller.kinds.stage import Stage, foreign_result, lost_result
from driftloop.controller.pods import jobs
from driftloop.controller.pods.common import TaskTooLarge
from driftloop.controller.pods.outcome import (
    BENIGN,
    OOM_KILLED,
    OUT_OF_MEMORY,
    Broken,
    Lost,
    Running,
    delete_job,
    finished,
    lost_pods,
    memory_shortage,
)
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.labels import (
    ADJUSTMENTS,
    CHECKPOINT_STEP,
    CHECKPOINT_TIME,
    DRAFT,
    RESUMED,
    VERSION,
)
from driftloop.controller.vocabulary.plan import Action, Annotate, Apply, Create, Obj, Plan, Settings, independent
from driftloop.controller.vocabulary.reasons import Reason

RECHECK_SECONDS = 60.0  # wait for a change of other objects, most of which also trigger a reconcile
SETTLE_SECONDS = 10.0  # wait for changes of the job's own Jobs and pods
AT_ONCE_SECONDS = 0.5  # the next step needs only the status that this one writes


Step = steps.Step[FineTuneJobPhase]


@dataclass(frozen=True)
class StageState:
    """The phase, reason and message of a stage that runs without problems."""

    phase: FineTuneJobPhase
    reason: Reason
    message: str


PREPARING = StageState("Preparing", Reason.PREPARING, "the data is being prepared")


def decide(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Plan the next step of the job."""
    if observed.job["metadata"].get("deletionTimestamp"):
        return Plan()  # Kubernetes deletes the objects that it owns
    failed, wait = lost_pods(observed.pods, now)
    if (end := _ended_status(observed)) is not None:
        return Plan(beside=independent(failed), status=end, requeue_after=wait)
    stages = stages_of(observed, settings, now)
    return steps.to_plan(_with_times(stages, _step(stages)), observed.job, observed.status, now, failed, wait)


def _ended_status(observed: Observed) -> Obj | None:
    """The status of a job that has ended, else None.

    Only its generation may still change, because `spec.suspend` can be changed at any time.
    """
    ends = {entry.type for entry in observed.status.conditions if entry.status == "True"}
    if not {"Complete", "Failed"} & ends:
        return None
    generation = observed.job["metadata"].get("generation")
    kept = [entry.model_copy(update={"observed_generation": generation}) for entry in observed.status.conditions]
    return observed.status.model_copy(update={"observed_generation": generation, "conditions": kept}).dump()


def _step(stages: Stages) -> Step:
    if stages.observed.version is not None:
        return _already_succeeded(stages, stages.observed.version["metadata"]["name"])
    if stages.observed.spec.suspend:
        return _suspended(stages)
    if stages.train:
        return _train_step(stages, stages.train)
    if stages.prepare:
        return _prepare_step(stages, stages.prepare)
    return _start_step(stages)


def _start_step(stages: Stages) -> Step:
    engine = stages.spec.evaluation.engine
    if engine and (fault := obstacle(engine, stages.settings)):  # told now, and not after the training
        message = f"evaluation.{fault}"
        return Step("Pending", conditions.stalled(Reason.ENGINE_NOT_POSSIBLE, message), requeue_after=RECHECK_SECONDS)
    match start(stages.observed):
        case Start() as begin:
            return _create_prepare(stages, begin)
        case Waiting(reason, message):
            return Step("Pending", conditions.progressing(reason, message), requeue_after=RECHECK_SECONDS)
        case Blocked(reason, message):
            return Step("Pending", conditions.stalled(reason, message), requeue_after=RECHECK_SECONDS)
        case Refused(reason, message):
            return _failed(reason, message)
        case never:
            assert_never(never)


def _create_prepare(stages: Stages, begin: Start) -> Step:
    job = stages.observed.job
    recorded = {VERSION: begin.parent, RESUMED: begin.resumed}
    annotations = {name: value for name, value in recorded.items() if value}
    try:
        body = jobs.prepare_job(job, tasks.prepare_task(stages.observed, begin), _placement(stages), annotations)
    except TaskTooLarge as error:
        return _failed(Reason.TASK_TOO_LARGE, str(error))
    actions = (Apply(jobs.job_policy(job, stages.settings)), Create(body))
    return Step(PREPARING.phase, conditions.progressing(PREPARING.reason, PREPARING.message), actions)


def _prepare_step(stages: Stages, prepare: Stage[PrepareResult]) -> Step:
    match prepare.outcome:
        case PrepareResult() as data:
            return _plan_step(stages, prepare.job, data)
        case Running() as running:
            policy = Apply(jobs.job_policy(stages.observed.job, stages.settings))
            return _in_progress(PREPARING, running, (policy,))
        case Broken(reason, message):
            return _failed(reason, message)
        case Lost():
            return _rerun(PREPARING.phase, prepare.job)
        case never:
            assert_never(never)


def _plan_step(stages: Stages, prepare: Obj, data: PrepareResult) -> Step:
    observed, task = stages.observed, tasks.prepare_task_of(prepare)
    if task is None:
        return _failed(Reason.INVALID_RESULT, foreign_result(prepare).message)
    changes: dict[str, Any] = {"data": _data_status(data)}
    spec = with_what_it_had(stages.spec, data) if observed.status.attempt else stages.spec
    match plan_or_remedy(spec, data, observed.gpu_memory):
        case Refusal(reason, message):
            return _failed(reason, message, changes)
        case TrainingPlan() as planned:
            changes["plan"] = planned.status
        case never:
            assert_never(never)
    if stages.left_over:
        message = "waiting for training pods of the previous attempt to stop"
        phase = observed.status.phase or "Planning"  # it may be Suspended, from which the next attempt is counted
        return Step(phase, conditions.progressing(Reason.STOPPING, message), (), SETTLE_SECONDS, changes)
    try:
        actions = _create_train(stages, tasks.prepared_by(prepare, task, data), planned)
    except tasks.InvalidResult as error:
        return _failed(Reason.INVALID_RESULT, f"prepare: {error}", changes)
    except TaskTooLarge as error:
        return _failed(Reason.TASK_TOO_LARGE, str(error), changes)
    work = _training(observed)
    return Step(
        work.phase,
        conditions.progressing(work.reason, work.message),
        actions,
        progress.READ_EVERY.total_seconds(),
        changes | {"attempt": stages.attempt},
    )


def _create_train(stages: Stages, prepared: tasks.Prepared, planned: TrainingPlan) -> tuple[Action, ...]:
    """The actions that create the train Job. Raises InvalidResult and TaskTooLarge."""
    job, settings = stages.observed.job, stages.settings
    image = stages.spec.training.image or settings.trainer_image
    lineage = tasks.lineage(stages.observed, prepared, image)
    annotations = {DRAFT: tasks.draft(stages.observed.spec, lineage, prepared)}
    if stages.adjustments:
        annotations[ADJUSTMENTS] = ladder.encode(stages.adjustments)
    task = tasks.train_task(stages, prepared, planned, lineage)
    body = jobs.train_job(job, task, _placement(stages), annotations)
    secret = Create(jobs.ray_secret(job, stages.observed.fresh_secret, settings))
    return (*_network(stages), secret, Create(body))


def _train_step(stages: Stages, train: Stage[TrainResult]) -> Step:
    observed = stages.observed
    adjusted = {"adjustments": list(stages.adjustments)} if stages.adjustments else {}
    changes = {"attempt": stages.attempt} | adjusted | _restored_data(stages)
    match train.outcome:
        case TrainResult() as result:
            return _create_version(observed, train.job, result, changes)
        case Running() | Broken() if (step := _less_memory(stages, train.job)) is not None:
            return replace(step, changes=changes | step.changes)
        case Running() as running:
            changes["progress"] = known = progress.newer(observed.status.progress, observed.progress)
            beside = (*_network(stages), *_checkpoint_shown(train.job, known))
            step = _in_progress(_training(observed, known), running, beside)
            room = make_room(train.job, observed.pods, observed.spec.compute.elastic, stages.now)
            return replace(step, changes=changes, groups=room, requeue_after=progress.READ_EVERY.total_seconds())
        case Broken(reason, message, phase) if reason in OUT_OF_MEMORY:
            return _failed(reason, _out_of_memory(stages, reason, message, phase), changes)
        case Broken(reason, message):
            return _failed(reason, message, changes)
        case Lost():
            return replace(_rerun("Training", train.job), changes=changes)
        case never:
            assert_never(never)


def _less_memory(stages: Stages, train: Obj) -> Step | None:
    """The step towards an attempt that needs less memory; None if memory is not short, or nothing can be lowered.

    First the status says what is lowered, then the Job is deleted, and then the next attempt is created. So the reason
    is kept if the operator ends in between.
    """
    task = tasks.train_task_of(train)
    deleted = train["metadata"].get("deletionTimestamp")
    if task is None:
        return None
    if stages.is_adjusted:
        message = ladder.adjustment_message(task, stages.adjustments[-1])
        actions = () if deleted else (delete_job(train),)
        return Step("Training", conditions.progressing(Reason.LOWERING_MEMORY, message), actions, SETTLE_SECONDS)
    shortage = None if deleted else memory_shortage(train, stages.observed.pods)
    data = stages.prepare.result if stages.prepare else None
    rung = ladder.next_rung(task, data, shortage, stages.now) if shortage else None
    if rung is None:
        return None
    condition = conditions.progressing(Reason.LOWERING_MEMORY, ladder.adjustment_message(task, rung))
    return Step("Training", condition, (), AT_ONCE_SECONDS, {"adjustments": [*stages.adjustments, rung]})


def _out_of_memory(stages: Stages, reason: str, message: str, phase: BesideSteps | None) -> str:
    """The message of a job for which nothing is left to lower, with the smallest change of its spec that would fit."""
    when = f" (during {phase}, which no smaller step helps)" if phase else ""
    data, tried = stages.prepare.result if stages.prepare else None, stages.observed.status.plan
    of_pod = reason == OOM_KILLED and stages.spec.compute.gpus_per_node > 0  # the message names its memory limit
    if data is None or tried is None or of_pod:
        return f"{message}{when}"
    return f"{message}{when}: {remedy_after(tried, phase, stages.spec, data, stages.observed.gpu_memory)}"


def _checkpoint_shown(train: Obj, known: Progress | None) -> tuple[Action, ...]:
    """Show the last checkpoint on the train Job."""
    if known is None or known.checkpoint is None:
        return ()
    shown = {CHECKPOINT_STEP: str(known.checkpoint.step), CHECKPOINT_TIME: known.checkpoint.time}
    metadata = train["metadata"]
    return (Annotate(metadata["namespace"], metadata["name"], metadata["uid"], shown),)


def _create_version(observed: Observed, train: Obj, result: TrainResult, changes: dict[str, Any]) -> Step:
    try:
        body = tasks.model_version(observed, train, result)
    except tasks.InvalidResult as error:
        return _failed(Reason.INVALID_RESULT, f"train: {error}", changes)
    step = _succeeded(body["metadata"]["name"], result)
    return replace(step, actions=(Create(body),), changes=changes | step.changes)


def _succeeded(version: str, result: TrainResult | None) -> Step:
    message = f"ModelVersion {version} was created"
    changes: dict[str, Any] = {"version": version}
    reason = Reason.SUCCEEDED
    if result is not None:
        changes["progress"] = progress.done(result)
        message += progress.validation_message(result)
        reason = Reason.STOPPED_EARLY if progress.stopped_early(result) else reason
    return Step("Succeeded", conditions.complete(reason, message), changes=changes)


def _already_succeeded(stages: Stages, version: str) -> Step:
    """The version exists, but not in the status: the operator crashed between two writes, or the status was lost."""
    train = stages.train
    step = _succeeded(version, train.result if train else None)
    known = {"attempt": stages.attempt} if train else {}
    return replace(step, changes=known | _restored_data(stages) | step.changes)


def _suspended(stages: Stages) -> Step:
    """Delete the running Jobs. Checkpoints are in storage, and the next attempt continues from the last one."""
    working = [job for job in stages.observed.jobs if not finished(job)]
    if not working and not stages.left_over:
        message = "suspended; set spec.suspend to false to resume"
        condition = conditions.condition("Ready", "False", Reason.SUSPENDED, message)
        return Step("Suspended", [condition])
    actions = tuple(delete_job(job) for job in working if not job["metadata"].get("deletionTimestamp"))
    phase = stages.observed.status.phase or "Pending"
    return Step(phase, conditions.progressing(Reason.SUSPENDING, "the pods are being stopped"), actions, SETTLE_SECONDS)


def _in_progress(work: StageState, running: Running, beside: tuple[Action, ...]) -> Step:
    """A stage that has not finished. If its pods do not run, the condition says why.

    `beside` are its policies. They were created before its pods, so now a failed write of one stops nothing.
    """
    message = work.message if running.reason in BENIGN else f"{work.message}: {running.message}"
    expected = running.reason in BENIGN or work.reason == Reason.FEWER_NODES  # then a pod is missing, which is known
    reason = work.reason if expected else running.reason
    return Step(work.phase, conditions.progressing(reason, message), requeue_after=SETTLE_SECONDS, beside=beside)


def _training(observed: Observed, known: Progress | None = None) -> StageState:
    nodes, elastic = observed.spec.compute.nodes, observed.spec.compute.elastic
    present = known.nodes if known and elastic else None
    if present is None or present >= nodes:
        return StageState("Training", Reason.TRAINING, f"the model is being trained, nodes: {nodes}")
    message = f"training goes on with {present} of {nodes} nodes, and with more after a checkpoint when they are there"
    return StageState("Training", Reason.FEWER_NODES, message)


def _rerun(phase: FineTuneJobPhase, job: Obj) -> Step:
    """Run a stage again whose result is lost."""
    message = lost_result(job)
    return Step(phase, conditions.progressing(Reason.RESULT_LOST, message), (delete_job(job),), SETTLE_SECONDS)


def _failed(reason: str, message: str, changes: dict[str, Any] | None = None) -> Step:
    return Step("Failed", conditions.failed(reason, message), changes=changes or {})


def _with_times(stages: Stages, step: Step) -> Step:
    """Add the start time to the first step of the job, and the end time to its last."""
    times: dict[str, Any] = {}
    if stages.observed.status.started is None and step.phase not in ("Pending", "Suspended"):
        times["started"] = conditions.timestamp(stages.now)
    if step.phase in ENDED:
        times["finished"] = conditions.timestamp(stages.now)
    return replace(step, changes=times | step.changes)


def _restored_data(stages: Stages) -> dict[str, Any]:
    """Restore data and plan of a status that has lost them, or has those of an earlier attempt.

    This works while the result of prepare is available.
    """
    observed, status = stages.observed, stages.observed.status
    data = stages.prepare.result if stages.prepare else None
    if data is None or (status.data and status.plan and status.attempt == stages.attempt):
        return {}
    known: dict[str, Any] = {"data": _data_status(data)}
    task = tasks.train_task_of(stages.train.job) if stages.train else None
    found = (
        plan_of_running(stages.spec, data, observed.gpu_memory, task.parallelism)
        if task
        else plan(stages.spec, data, observed.gpu_memory)
    )
    match found:
        case TrainingPlan() as planned:
            return known | {"plan": planned.status}
        case Refusal():
            return known
        case never:
            assert_never(never)


def _data_status(data: PrepareResult) -> DataStatus:
    return DataStatus.model_validate(data.model_dump(include=set(DataStatus.model_fields)))


def _network(stages: Stages) -> tuple[Action, ...]:
    job, settings = stages.observed.job, stages.settings
    return Apply(jobs.job_policy(job, settings)), Apply(jobs.train_service(job, settings))


def _placement(stages: Stages) -> jobs.Placement:
    spec = stages.observed.spec
    return jobs.Placement(spec.compute, spec.pod_overrides, stages.settings)
