"""What became of a stage: its Job and the pods of that Job, read as one of four outcomes. Pure.

Only pods controlled by the Job's UID are looked at: anybody who may create pods could otherwise name one like ours
and write its result.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from pydantic import ValidationError

from driftloop.contract.logs import message_of
from driftloop.contract.names import EXIT_BAD_INPUT
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

# Jobs and Pods come by two watches: a Job may be seen finished before its pod is.
RESULT_GRACE = timedelta(seconds=30)
# The Job controller asks for the first pods at once; the watch of pods may be that late.
CREATE_GRACE = timedelta(seconds=30)
# A kubelet that lives kills a container when its grace, which deletionTimestamp includes, is over.
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
BENIGN = {"Running", Reason.STARTING, Reason.STOPPING}  # reasons of `Running` with which nothing is wrong
_SIGNALLED = {137, 143}
_LOG_TAIL = 400


@dataclass(frozen=True)
class Running:
    """Not finished. `reason` says whether it runs, waits or is stuck."""

    reason: str
    message: str


@dataclass(frozen=True)
class Done:
    """Finished, with its result."""

    result: AnyResult


@dataclass(frozen=True)
class Broken:
    """Finished without a result, for good."""

    reason: str
    message: str


@dataclass(frozen=True)
class Lost:
    """Finished, and the pod that held the result is gone: run again, the stage finds its output and says it anew."""


Outcome = Running | Done | Broken | Lost


def outcome(job: Obj, pods: Iterable[Obj], container: str, now: datetime) -> Outcome:
    """What became of `job`, whose result is the termination message of `container`."""
    own = [pod for pod in pods if controlled_by(pod, job["metadata"]["uid"])]
    conditions = _conditions(job)
    if job["metadata"].get("deletionTimestamp"):
        return Running(Reason.STOPPING, f"Job {job['metadata']['name']} is being deleted")
    if is_true(conditions, "Complete") or is_true(conditions, "SuccessCriteriaMet"):
        return _success(job, own, container, now)
    if is_true(conditions, "Failed"):
        return _failure(find(conditions, "Failed") or {}, own, now)
    if cause := _hopeless(own):
        return Broken(cause.reason, cause.message)
    return _running(job, own, now)


def lost_pods(pods: Iterable[Obj], now: datetime) -> tuple[tuple[FailPod, ...], float | None]:
    """Pods to fail, since no kubelet will ever end them, and the seconds until the next one may have to be."""
    failed, waits = [], []
    for pod in pods:
        if (overdue := _overdue_at(pod)) is None:
            continue
        if now >= overdue:
            failed.append(_fail(pod))
        else:
            waits.append((overdue - now).total_seconds())
    return tuple(failed), min(waits, default=None)


def trouble(pods: list[Obj]) -> Running | Broken | None:
    """What keeps pods from serving, as far as they say: stuck, unschedulable, or how a container ended last.

    Broken when a container found its input wrong: it will find it wrong again, however often it is restarted.
    """
    cause = _worst(pods)
    if cause and cause.exit_code == EXIT_BAD_INPUT:
        return Broken(cause.reason, cause.message)
    if obstacle := _stuck(pods) or _unschedulable(pods):
        return obstacle
    return Running(cause.reason, cause.message) if cause else None


def refused(deployment: Obj) -> Running | None:
    """The API server's words where it takes no pods of a Deployment."""
    failure = find(_conditions(deployment), "ReplicaFailure") or {}
    return Running(Reason.PODS_REFUSED, failure.get("message") or "") if failure.get("status") == "True" else None


def started(pod: Obj, container: str) -> bool:
    """Whether a container of the pod runs, or ever ran."""
    return any(
        status.get("name") == container
        and ({"running", "terminated"} & (status.get("state") or {}).keys() or status.get("lastState"))
        for status in _statuses(pod)
    )


def finished(job: Obj) -> bool:
    """Whether a Job came to its end, good or bad."""
    conditions = _conditions(job)
    return is_true(conditions, "Complete") or is_true(conditions, "Failed")


def finished_at(job: Obj, now: datetime) -> datetime:
    """When a Job came to its end; `now` where it doesn't tell."""
    completed = field(job, "status", "completionTime")
    return parse_timestamp(completed) if completed else now


def delete_job(job: Obj) -> Delete:
    """Delete this very Job, and its pods with it."""
    metadata = job["metadata"]
    of = metadata.get("resourceVersion")
    return Delete("batch/v1", "Job", metadata["namespace"], metadata["name"], metadata["uid"], of)


@dataclass(frozen=True)
class _Cause:
    """Why one container ended badly. Causes are compared by rank, then by time."""

    rank: int
    finished: str
    reason: str
    message: str
    exit_code: int


def _success(job: Obj, pods: list[Obj], container: str, now: datetime) -> Outcome:
    for pod in pods:
        terminated = _terminated(pod, container)
        if terminated is not None and terminated.get("exitCode") == 0:
            return _read(terminated.get("message") or "")
    completed = field(job, "status", "completionTime")
    if completed is None or now < parse_timestamp(completed) + RESULT_GRACE:
        return Running(Reason.STOPPING, "finished; waiting for its result")
    return Lost()


def _read(message: str) -> Outcome:
    try:
        result = decode(message)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        return Broken(
            Reason.INVALID_RESULT,
            f"the pod ended well, but its termination message is no result: {where}: {first['msg']}",
        )
    match result:
        case StageError(reason=reason, message=said):
            return Broken(reason, said)
        case PrepareResult() | TrainResult() | AnswerResult() | EvaluateResult():
            return Done(result)
        case never:
            assert_never(never)


def _failure(condition: Obj, pods: list[Obj], now: datetime) -> Outcome:
    if condition.get("reason") == "DeadlineExceeded":
        return Broken("DeadlineExceeded", condition.get("message") or "the stage took longer than it may")
    if cause := _worst(pods):
        return Broken(cause.reason, cause.message)
    since = condition.get("lastTransitionTime")
    if since and now < parse_timestamp(since) + RESULT_GRACE:
        return Running(Reason.STOPPING, "failed; waiting for its reason")
    reason = condition.get("reason") or Reason.STAGE_FAILED
    return Broken(reason, condition.get("message") or "the Job failed and its pods are gone")


def _hopeless(pods: list[Obj]) -> _Cause | None:
    """A sidecar that found its input wrong: the kubelet would restart it for ever, and the Job waits for its client."""
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
        return Running(
            Reason.QUEUED, f"Job {job['metadata']['name']} is suspended: it waits to be admitted by its queue"
        )
    if obstacle := _podless(job, pods, now) or _stuck(pods) or _unschedulable(pods):
        return obstacle
    wanted = job["spec"].get("parallelism") or 1
    running = sum(1 for pod in pods if phase(pod) == "Running")
    if running < wanted and (cause := _worst(pods)):
        return Running(
            Reason.RETRYING, f"{running} of {wanted} pods running; the last failure was {cause.reason}: {cause.message}"
        )
    if running < wanted:
        return Running(Reason.STARTING, f"{running} of {wanted} pods running")
    return Running("Running", f"{wanted} of {wanted} pods running")


def _podless(job: Obj, pods: list[Obj], now: datetime) -> Running | None:
    """A Job that never got a pod. What the API server said to that stands in the Job's Events alone."""
    status, name = job.get("status") or {}, job["metadata"]["name"]
    since = status.get("startTime")
    if pods or status.get("failed") or since is None or now < parse_timestamp(since) + CREATE_GRACE:
        return None
    return Running(
        Reason.PODS_REFUSED,
        f"Job {name} gets no pod: kubectl describe job {name} says why, such as podOverrides.serviceAccountName or "
        "priorityClassName that isn't there, or a quota that is used up",
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
    if phase(pod) == "Failed" and status.get("reason"):  # Evicted, and what else a kubelet refuses
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
        return _Cause(4 if code == EXIT_BAD_INPUT else 3, when, error.reason, error.message, code)
    if terminated.get("reason") == "OOMKilled":
        advice = "raise its memory limit, or lower the batch size or maxLength"
        return _Cause(2, when, "OOMKilled", f"{where} used more memory than its limit: {advice}", code)
    # The end of the log stands in for a message; the last line is where Python says what happened.
    tail = shorten(message_of(message.strip().rsplit("\n", 1)[-1]), _LOG_TAIL)
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


def _overdue_at(pod: Obj) -> datetime | None:
    """When a pod that is Terminating, and whose containers nobody reported ended, counts as lost."""
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
        f"Terminating past its grace period, and {node} does not report its end: the node is lost",
        metadata.get("resourceVersion"),
    )
