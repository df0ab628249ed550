"""What the state of an object means for somebody who waits for it. Pure.

A state that is not known never counts as good: the wait goes on, and ends with its timeout.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, assert_never

from pydantic import ValidationError

from driftloop.api.base import Condition
from driftloop.api.finetunejob import FineTuneJobStatus, Progress
from driftloop.api.inferenceservice import InferenceServiceStatus, RevisionStatus
from driftloop.api.modelversion import ModelVersionStatus
from driftloop.controller.vocabulary.labels import FAILED, RETRIED, RETRY, REVISION, ROLE, VERSION
from driftloop.controller.vocabulary.objects import annotations, field, labels
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.reasons import Reason

Status = FineTuneJobStatus | ModelVersionStatus | InferenceServiceStatus
VersionGoal = Literal["approved", "judged"]
BEGINNING = (Reason.CANDIDATE_STARTING, Reason.DEPLOYING)  # a candidate may be there before the status has it
NOT_OBSERVED = "the operator has not observed this spec yet"


@dataclass(frozen=True)
class Going:
    """It goes on, or has not begun."""

    message: str
    percent: int | None = None
    eta: str | None = None


@dataclass(frozen=True)
class Done:
    """It is as wanted."""

    message: str


@dataclass(frozen=True)
class Over:
    """It can't become as wanted any more."""

    message: str


@dataclass(frozen=True)
class Stuck:
    """Nothing goes on until a person acts, or until something that is missing is there."""

    message: str


@dataclass(frozen=True)
class Awaiting:
    """A person must approve."""

    message: str


State = Going | Done | Over | Stuck | Awaiting


def job_state(job: Obj | None) -> State:
    """Whether a FineTuneJob has its version."""
    if job is None:
        return Going("there is no such FineTuneJob yet")
    try:
        status = FineTuneJobStatus.model_validate(job.get("status") or {})
    except ValidationError as error:
        return unreadable(error)
    match status.phase:
        case "Failed":
            return Over(ready_message(status) or "the job failed")
        case "Succeeded":
            return Done(f"created the version {status.version}")
        case None | "Pending" | "Preparing" | "Planning" | "Training" | "Suspended":
            return stalled_state(job, status) or _training(job, status)
        case never:
            assert_never(never)


def version_state(version: Obj | None, goal: VersionGoal) -> State:
    """Whether a ModelVersion is approved; with the goal `judged`, whether it is judged and not rejected."""
    if version is None:
        return Going("there is no such ModelVersion yet")
    try:
        status = ModelVersionStatus.model_validate(version.get("status") or {})
    except ValidationError as error:
        return unreadable(error)
    summary = status.gate_summary or ready_message(status)
    retry = annotations(version).get(RETRY)
    match status.phase:
        case "Failed" if retry and retry != status.retried:
            return Going(f"{RETRY} has a new value: waiting for another evaluation")
        case "Approved":
            return Done(f"Approved: {summary}")
        case "Rejected" | "Failed":
            return Over(f"{status.phase}: {ready_message(status) or summary}")
        case "AwaitingApproval":
            message = ready_message(status) or summary
            return Awaiting(message) if goal == "judged" else Going(message)
        case None | "Pending" | "Evaluating":
            return stalled_state(version, status) or Going(ready_message(status) or "waiting for the evaluation")
        case never:
            assert_never(never)


def ready_state(service: Obj | None) -> State:
    """Whether an InferenceService serves what its spec asks for, with no rollout in progress."""
    if service is None:
        return Going("there is no such InferenceService yet")
    try:
        status = InferenceServiceStatus.model_validate(service.get("status") or {})
    except ValidationError as error:
        return unreadable(error)
    if not is_observed(service, status):
        return Going(NOT_OBSERVED)
    if stuck := stalled_state(service, status):
        return stuck
    ready, reconciling = _condition(status, "Ready"), _condition(status, "Reconciling")
    if ready and ready.status == "True" and reconciling is None:
        return Done(ready.message)
    return Going(ready_message(status) or "waiting for the operator")


@dataclass(frozen=True)
class Rollback:
    """The record of a rollback: a Deployment that the operator keeps."""

    version: str
    revision: str
    message: str
    retried: bool  # it failed again after a retry was requested


def rollbacks(deployments: Iterable[Obj]) -> list[Rollback]:
    """The rollbacks that the Deployments of a service record."""
    return [
        Rollback(
            version=labels(deployment).get(VERSION, ""),
            revision=labels(deployment).get(REVISION, ""),
            message=annotations(deployment).get(FAILED) or "it was rolled back",
            retried=RETRIED in annotations(deployment),
        )
        for deployment in deployments
        if labels(deployment).get(ROLE) == "failed"
    ]


def promotion_state(service: Obj | None, version: str, recorded: Iterable[Rollback]) -> State:
    """Whether a service has promoted a version, or rolled it back, also before the wait began."""
    if service is None:
        return Going("there is no such InferenceService yet")
    try:
        status = InferenceServiceStatus.model_validate(service.get("status") or {})
    except ValidationError as error:
        return unreadable(error)
    if not is_observed(service, status):
        return Going(NOT_OBSERVED)
    stable, candidate = _version(status.stable), _version(status.candidate)
    pinned = field(service, "spec", "model", "version")
    stalled = _condition(status, "Stalled")
    if candidate == version:
        return stalled_state(service, status) or _canary(status, version)
    if pinned in (None, version) and stalled and stalled.reason == Reason.REVISION_FAILED:
        return Over(stalled.message)
    if stable == version:
        return Done(f"{version} serves: {status.traffic or 'unknown'} percent of the requests to stable and candidate")
    if failure := _rolled_back(service, status, version, recorded):
        return Over(f"{version} was rolled back: {failure.message}")
    if stuck := stalled_state(service, status):
        return stuck
    return Going(_not_chosen(status, version, pinned))


def _not_chosen(status: InferenceServiceStatus, version: str, pinned: str | None) -> str:
    serving = f"{status.stable.version} serves" if status.stable else "no version serves"
    if pinned and pinned != version:
        return f"{serving}; spec.model.version pins {pinned}: waiting until it pins {version} or nothing"
    return f"{serving}; waiting for the canary of {version}"


def _rolled_back(
    service: Obj, status: InferenceServiceStatus, version: str, recorded: Iterable[Rollback]
) -> Rollback | None:
    """The rollback of the version, unless it is tried again."""
    ready = _condition(status, "Ready")
    if status.candidate is None and ready and ready.reason in BEGINNING:
        return None
    retry = annotations(service).get(RETRY)
    for rollback in recorded:
        is_asked_again = retry == rollback.revision and not rollback.retried
        if rollback.version == version and rollback.revision in status.failed_revisions and not is_asked_again:
            return rollback
    return None


def _canary(status: InferenceServiceStatus, version: str) -> Going:
    message = ready_message(status)
    traffic = f"; traffic {status.traffic}" if status.traffic else ""
    return Going(f"{message or f'{version} is the candidate'}{traffic}")


def _training(job: Obj, status: FineTuneJobStatus) -> Going:
    phase = status.phase or "Pending"
    if not is_observed(job, status):
        return Going(NOT_OBSERVED)
    progress = status.progress
    if phase != "Training" or progress is None:
        return Going(f"{phase}: {ready_message(status) or 'waiting for the operator'}")
    return Going(f"Training: {_steps(progress)}", progress.percent, progress.eta)


def _steps(progress: Progress) -> str:
    loss = f", loss {progress.loss}" if progress.loss else ""
    return f"step {progress.step:,} of {progress.total_steps:,}{loss}"


def _version(revision: RevisionStatus | None) -> str | None:
    return revision.version if revision else None


def is_observed(obj: Obj, status: Status) -> bool:
    """Whether the status describes the object's current spec."""
    return bool((status.observed_generation or 0) >= obj["metadata"].get("generation", 1))


def stalled_state(obj: Obj, status: Status) -> Stuck | None:
    """Stalled, unless it concerns an older spec or only the retraining."""
    stalled = _condition(status, "Stalled")
    if stalled is None or not is_observed(obj, status) or stalled.reason == Reason.RETRAINING_BLOCKED:
        return None
    return Stuck(f"{stalled.reason}: {stalled.message}")


def _condition(status: Status, type_: str) -> Condition | None:
    """A condition that is present and True; Ready also if it is not."""
    present = next((entry for entry in status.conditions if entry.type == type_), None)
    return present if present and (present.status == "True" or type_ == "Ready") else None


def ready_message(status: Status) -> str:
    ready = _condition(status, "Ready")
    return ready.message if ready else ""


def unreadable(error: ValidationError) -> Stuck:
    """The status was written by another release."""
    fields = ", ".join(".".join(map(str, entry["loc"])) for entry in error.errors())
    return Stuck(f"the status has values that this release does not know ({fields}): use the operator's release")
