"""The outcome of a stage, read from its Job and the Job's pods. Pure.

Only pods that the Job's UID controls are read. Otherwise anyone who may create pods could create one with the right
name and a false result.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from pydantic import ValidationError

from driftloop.contract.logs import message_of
from driftloop.contract.names import EXIT_BAD_INPUT, EXIT_RETRY
from driftloop.contract.phase import BesideSteps, known, phase_of
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import (
    AnswerResult,
    AnyResult,
    EvaluateResult,
    PrepareResult,
    StageError,
    TrainResult,
    decode,
)
from driftloop.controller.vocabulary.conditions import find, is_true, parse_timestamp, shorten
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.objects import field, phase
from driftloop.controller.vocabulary.plan import Delete, FailPod, Obj
from driftloop.controller.vocabulary.reasons import Reason

# Jobs and pods arrive by two watches, so a Job can be seen finished before its pod is.
RESULT_GRACE = timedelta(seconds=30)
# The Job controller creates the first pods at once, but the watch of pods may be late.
CREATE_GRACE = timedelta(seconds=30)
# A working kubelet kills a container at the end of its grace period, which deletionTimestamp includes.
LOST_AFTER_TAINT = timedelta(seconds=10)
LOST_WITHOUT_TAINT = timedelta(seconds=60)

STUCK = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
BENIGN = {"Running", Reason.STARTING, Reason.STOPPING}  # reasons of `Running` that are not a problem
_SIGNALLED = {137, 143, EXIT_RETRY}  # exit codes after SIGKILL, SIGTERM, and SIGTERM with a last checkpoint
OOM_KILLED = "OOMKilled"  # the kubelet's reason
OUT_OF_MEMORY = (OOM_KILLED, StageReason.OUT_OF_MEMORY)
_MORE_MEMORY = ": raise its memory limit, or lower the batch size or maxLength"
_LOG_TAIL = 400


@dataclass(frozen=True)
class Running:
    """The stage has not finished. `reason` tells whether it runs, waits or is stuck."""

    reason: str
    message: str


@dataclass(frozen=True)
class Done:
    """The stage finished with a result."""

    result: AnyResult


@dataclass(frozen=True)
class Broken:
    """The stage has failed and is not retried. `phase`: what a training that lacked memory did beside its steps."""

    reason: str
    message: str
    phase: BesideSteps | None = None


@dataclass(frozen=True)
class Lost:
    """The stage finished, but the pod with its result is gone.

    When it runs again, it finds its output in storage and reports the same result.
    """


Outcome = Running | Done | Broken | Lost


def outcome(job: Obj, pods: Iterable[Obj], container: str, now: datetime) -> Outcome:
    """The outcome of `job`. Its result is the termination message of `container`."""
    own = [pod for pod in pods if controlled_by(pod, job["metadata"]["uid"])]
    conditions = _conditions(job)
    if job["metadata"].get("deletionTimestamp"):
        return Running(Reason.STOPPING, f"Job {job['metadata']['name']} is being deleted")
    if is_true(conditions, "Complete") or is_true(conditions, "SuccessCriteriaMet"):
        return _success(job, own, container, now)
    if is_true(conditions, "Failed"):
        return _failure(find(conditions, "Failed") or {}, own, now)
    if cause := _broken_sidecar(own):
        return Broken(cause.reason, cause.message)
    return _running(job, own, now)


def memory_shortage(job: Obj, pods: Iterable[Obj]) -> Broken | None:
    """How a pod of an unfinished or failed Job ran out of memory.

    None if none did, if all pods run again, or if the Job ended for another reason that a person must act on.
    A pod that was disrupted does not count: its node, not the pod, may have lacked memory.
    """
    own = [pod for pod in pods if controlled_by(pod, job["metadata"]["uid"])]
    out_of_time = (find(_conditions(job), "Failed") or {}).get("reason") == "DeadlineExceeded"
    if out_of_time or sum(phase(pod) == "Running" for pod in own) >= (job["spec"].get("parallelism") or 1):
        return None
    causes = [cause for pod in own if not _is_disrupted(pod) for cause in _causes(pod)]
    short = [cause for cause in causes if cause.reason in OUT_OF_MEMORY]
    if not short or any(cause.exit_code == EXIT_BAD_INPUT and cause not in short for cause in causes):
        return None
    last = max(short, key=lambda cause: cause.finished)
    return Broken(last.reason, last.message.removesuffix(_MORE_MEMORY), last.phase)


def lost_pods(pods: Iterable[Obj], now: datetime) -> tuple[tuple[FailPod, ...], float | None]:
    """Pods to mark as Failed because their node is lost, and the seconds until the next pod may count as lost.

    Without that the Job waits for a Terminating pod forever: https://github.com/kubernetes/kubernetes/issues/72226
    """
    failed, waits = [], []
    for pod in pods:
        if (overdue := overdue_at(pod)) is None:
            continue
        if now >= overdue:
            failed.append(_fail(pod))
        else:
            waits.append((overdue - now).total_seconds())
    return tuple(failed), min(waits, default=None)


def serving_problem(pods: list[Obj]) -> Running | Broken | None:
    """Why pods do not serve: stuck, unschedulable, or how a container ended last. None if their status has no cause.

    Broken if a container reported wrong input, because a restart will not change the input.
    """
    cause = _worst(pods)
    if cause and cause.exit_code == EXIT_BAD_INPUT:
        return Broken(cause.reason, cause.message)
    if obstacle := _stuck(pods) or _unschedulable(pods):
        return obstacle
    return Running(cause.reason, cause.message) if cause else None


def refused_pods(deployment: Obj) -> Running | None:
    """The API server's message if it refuses the pods of a Deployment."""
    failure = find(_conditions(deployment), "ReplicaFailure") or {}
    return Running(Reason.PODS_REFUSED, failure.get("message") or "") if failure.get("status") == "True" else None


def started(pod: Obj, container: str) -> bool:
    """Whether the container runs or has run before."""
    return any(
        status.get("name") == container
        and ({"running", "terminated"} & (status.get("state") or {}).keys() or status.get("lastState"))
        for status in _statuses(pod)
    )


def finished(job: Obj) -> bool:
    """Whether a Job has completed or failed."""
    conditions = _conditions(job)
    return is_true(conditions, "Complete") or is_true(conditions, "Failed")


def finished_at(job: Obj, now: datetime) -> datetime:
    """When a Job completed; `now` for a Job without a completion time."""
    completed = field(job, "status", "completionTime")
    return parse_timestamp(completed) if completed else now


def delete_job(job: Obj) -> Delete:
    """Delete exactly this Job, by its UID, together with its pods."""
    metadata = job["metadata"]
    observed = metadata.get("resourceVersion")
    return Delete("batch/v1", "Job", metadata["namespace"], metadata["name"], metadata["uid"], observed)


@dataclass(frozen=True)
class _Cause:
    """Why a container failed. Causes are compared by rank, then by time."""

    rank: int
    finished: str
    reason: str
    message: str
    exit_code: int
    phase: BesideSteps | None = None


def _success(job: Obj, pods: list[Obj], container: str, now: datetime) -> Outcome:
    for pod in pods:
        terminated = _terminated(pod, container)
        if terminated is not None and terminated.get("exitCode") == 0:
            return _read(terminated.get("message") or "")
    completed = field(job, "status", "completionTime")
    if completed is None or now < parse_timestamp(completed) + RESULT_GRACE:
        return Running(Reason.STOPPING, "finished; waiting for the result")
    return Lost()


def _read(message: str) -> Outcome:
    try:
        result = decode(message)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        return Broken(
            Reason.INVALID_RESULT,
            f"the pod succeeded, but its termination message is not a valid result: {where}: {first['msg']}",
        )
    match result:
        case StageError(reason=reason, message=text):
            return Broken(reason, text)
        case PrepareResult() | TrainResult() | AnswerResult() | EvaluateResult():
            return Done(result)
        case never:
            assert_never(never)


def _failure(condition: Obj, pods: list[Obj], now: datetime) -> Outcome:
    if condition.get("reason") == "DeadlineExceeded":
        return Broken("DeadlineExceeded", condition.get("message") or "the stage exceeded its time limit")
    if cause := _worst(pods):
        return Broken(cause.reason, cause.message, cause.phase)
    since = condition.get("lastTransitionTime")
    if since and now < parse_timestamp(since) + RESULT_GRACE:
        return Running(Reason.STOPPING, "failed; waiting for the reason")
    reason = condition.get("reason") or Reason.STAGE_FAILED
    return Broken(reason, condition.get("message") or "the Job failed and its pods are gone")


def _broken_sidecar(pods: list[Obj]) -> _Cause | None:
    """A sidecar that reported wrong input. The kubelet restarts it forever, and the Job never fails by itself.

    Kubernetes restarts a sidecar also in a pod with restartPolicy Never:
    https://github.com/kubernetes/kubernetes/issues/120234
    """
    causes = [
        cause
        for pod in pods
        for status in field(pod, "status", "initContainerStatuses") or []
        for cause in _causes_of(pod, status)
        if cause.exit_code == EXIT_BAD_INPUT
    ]
    return max(causes, key=lambda cause: (cause.rank, cause.finished), default=None)


def _running(job: Obj, pods: list[Obj], now: datetime) -> Running:
    if is_true(_conditions(job), "Suspended"):
        return Running(Reason.QUEUED, f"Job {job['metadata']['name']} is suspended until its queue admits it")
    if obstacle := _without_pods(job, pods, now) or _stuck(pods) or _unschedulable(pods):
        return obstacle
    wanted = job["spec"].get("parallelism") or 1
    running = sum(1 for pod in pods if phase(pod) == "Running")
    if running < wanted and (cause := _worst(pods)):
        return Running(
            Reason.RETRYING, f"{running} of {wanted} pods running; last failure: {cause.reason}: {cause.message}"
        )
    if running < wanted:
        return Running(Reason.STARTING, f"{running} of {wanted} pods running")
    return Running("Running", f"{wanted} of {wanted} pods running")


def _without_pods(job: Obj, pods: list[Obj], now: datetime) -> Running | None:
    """A Job that never got a pod. Only the Job's Events have the message of the API server."""
    status, name = job.get("status") or {}, job["metadata"]["name"]
    since = status.get("startTime")
    if pods or status.get("failed") or since is None or now < parse_timestamp(since) + CREATE_GRACE:
        return None
    return Running(
        Reason.PODS_REFUSED,
        f"Job {name} gets no pods: kubectl describe job {name} shows why, for example a missing "
        "podOverrides.serviceAccountName or priorityClassName, or a quota that is used up",
    )


def _stuck(pods: list[Obj]) -> Running | None:
    for pod in pods:
        for status in _statuses(pod):
            waiting = field(status, "state", "waiting") or {}
            if waiting.get("reason") in STUCK:
                detail = waiting.get("message") or status.get("image") or ""
                return Running(waiting["reason"], f"container {status['name']} of {pod['metadata']['name']}: {detail}")
    return None


def _unschedulable(pods: list[Obj]) -> Running | None:
    for pod in pods:
        scheduled = find(_conditions(pod), "PodScheduled") or {}
        if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
            return Running("Unschedulable", f"{pod['metadata']['name']}: {scheduled.get('message', '')}")
    return None


def _worst(pods: list[Obj]) -> _Cause | None:
    causes = [cause for pod in pods for cause in _causes(pod)]
    return max(causes, key=lambda cause: (cause.rank, cause.finished), default=None)


def _causes(pod: Obj) -> Iterator[_Cause]:
    for status in _statuses(pod):
        yield from _causes_of(pod, status)
    status = pod.get("status") or {}
    if phase(pod) == "Failed" and status.get("reason"):  # Evicted, or refused by the kubelet
        yield _Cause(1, "", status["reason"], status.get("message") or status["reason"], -1)


def _causes_of(pod: Obj, status: Obj) -> Iterator[_Cause]:
    for state in (status.get("state") or {}, status.get("lastState") or {}):
        terminated = state.get("terminated")
        if terminated and terminated.get("exitCode"):
            yield _cause(pod["metadata"]["name"], status["name"], terminated)


def _cause(pod: str, container: str, terminated: Obj) -> _Cause:
    code, message = terminated["exitCode"], terminated.get("message") or ""
    when, where = terminated.get("finishedAt") or "", f"container {container} of {pod}"
    if error := _stage_error(message):
        rank = 4 if code == EXIT_BAD_INPUT else 3
        return _Cause(rank, when, error.reason, error.message, code, known(error.phase))
    phase = phase_of(message)
    if terminated.get("reason") == OOM_KILLED:
        return _Cause(2, when, OOM_KILLED, f"{where} used more memory than its limit{_MORE_MEMORY}", code, phase)
    # Here the message is the end of the log, and its last line is where Python prints the error.
    tail = f"during {phase}" if phase else shorten(message_of(message.strip().rsplit("\n", 1)[-1]), _LOG_TAIL)
    last_line = f": {tail}" if tail else ""
    rank = 0 if code in _SIGNALLED else 1
    return _Cause(rank, when, Reason.STAGE_FAILED, f"{where} exited with {code}{last_line}", code)


def _stage_error(message: str) -> StageError | None:
    try:
        result = decode(message)
    except ValidationError:
        return None
    match result:
        case StageError():
            return result
        case PrepareResult() | TrainResult() | AnswerResult() | EvaluateResult():
            return None
        case never:
            assert_never(never)


def _is_disrupted(pod: Obj) -> bool:
    return phase(pod) == "Failed" and is_true(_conditions(pod), "DisruptionTarget")


def _conditions(obj: Obj) -> list[Obj]:
    return field(obj, "status", "conditions") or []


def _terminated(pod: Obj, container: str) -> Obj | None:
    for status in field(pod, "status", "containerStatuses") or []:
        if status.get("name") == container:
            terminated: Obj | None = field(status, "state", "terminated")
            return terminated
    return None


def _statuses(pod: Obj) -> Iterator[Obj]:
    yield from field(pod, "status", "initContainerStatuses") or []
    yield from field(pod, "status", "containerStatuses") or []


def overdue_at(pod: Obj) -> datetime | None:
    """When a Terminating pod counts as lost; None for a pod that is not Terminating or whose end is reported."""
    deleted = pod["metadata"].get("deletionTimestamp")
    if not deleted or phase(pod) not in ("Pending", "Running"):
        return None
    target = find(_conditions(pod), "DisruptionTarget") or {}
    tainted = target.get("status") == "True" and target.get("reason") == "DeletionByTaintManager"
    return parse_timestamp(deleted) + (LOST_AFTER_TAINT if tainted else LOST_WITHOUT_TAINT)


def _fail(pod: Obj) -> FailPod:
    metadata = pod["metadata"]
    node = field(pod, "spec", "nodeName") or "its node"
    return FailPod(
        metadata["namespace"],
        metadata["name"],
        metadata["uid"],
        f"the pod is Terminating past its grace period and {node} has not reported its end: the node is lost",
        metadata.get("resourceVersion"),
    )
