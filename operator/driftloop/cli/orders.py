"""A person's commands about a rollout, from the side of whoever gives them: what to write, and what became of it.

Pure. The operator's side is `controller/kinds/inferenceservice/rollout/orders.py`. A command names the revision that
the person saw: if another one has become the candidate meanwhile, the operator does nothing.
"""

from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from driftloop.api.base import API_VERSION
from driftloop.api.inferenceservice import InferenceServiceStatus, RevisionStatus
from driftloop.api.modelversion import ModelVersion
from driftloop.cli.states import (
    NOT_OBSERVED,
    Done,
    Going,
    Over,
    State,
    is_observed,
    ready_message,
    stalled_state,
    unreadable,
)
from driftloop.controller.kinds.inferenceservice.command import Action
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import ROLLOUT
from driftloop.controller.vocabulary.objects import annotations
from driftloop.controller.vocabulary.plan import Obj

MAX_WHO = 128  # characters behind `by` that the operator accepts


@dataclass(frozen=True)
class Aim:
    """What a person saw, and means by the command; None: whatever is the candidate."""

    revision: str | None = None
    version: str | None = None

    def means(self, revision: RevisionStatus) -> bool:
        """Whether this revision is meant."""
        return self.revision in (None, revision.revision) and self.version in (None, revision.version)

    def __str__(self) -> str:
        parts = (f"revision {self.revision}" if self.revision else "", self.version or "")
        return " of ".join(part for part in parts if part) or "any revision"


def status_of(service: Obj) -> InferenceServiceStatus:
    """The status of a service. Raises ValidationError if another release wrote it."""
    return InferenceServiceStatus.model_validate(service.get("status") or {})


def target(status: InferenceServiceStatus, aim: Aim) -> RevisionStatus | Over:
    """The candidate; Over if there is none, or if another one is meant."""
    candidate = status.candidate
    if candidate is None:
        return Over(f"there is no candidate, so there is nothing to decide: {serving(status)}")
    if not aim.means(candidate):
        return Over(f"the candidate is revision {candidate.revision} of {candidate.version}, not {aim}")
    return candidate


def serving(status: InferenceServiceStatus) -> str:
    """What serves, in words."""
    return f"{status.stable.version} serves" if status.stable else "no version serves"


def order_value(action: Action, revision: str, now: datetime, who: str | None) -> str:
    """The value of the annotation. The time makes each command another one, as each value is obeyed only once.

    >>> order_value("pause", "0123456789", datetime.fromisoformat("2026-01-02T03:04:05Z"), "Ada")
    'pause 0123456789 at 2026-01-02T03:04:05Z by Ada'
    """
    by = f" by {who}" if who and len(who) <= MAX_WHO else ""
    return f"{action} {revision} at {timestamp(now)}{by}"


def order(service: Obj, value: str) -> Obj:
    """The annotation as an object to apply. Its UID prevents that a later service of the same name gets it."""
    return _patch(service, annotations={ROLLOUT: value})


def order_state(service: Obj | None, value: str) -> State:
    """Whether the operator has obeyed the command, or ignored it."""
    if service is None:
        return Over("the service does not exist")
    try:
        command = status_of(service).command
    except ValidationError as error:
        return unreadable(error)
    if command and command.value == value:
        return Done(command.message) if command.obeyed else Over(f"ignored: {command.message}")
    if (current := annotations(service).get(ROLLOUT)) != value:
        return Over(f"not seen by the operator: the annotation {ROLLOUT} was changed to {current!r} meanwhile")
    return Going("waiting until the operator obeys or ignores the command")


def previous_version(version: ModelVersion, service: str) -> str | None:
    """The version that served before: the one that the version was compared with in this service, else its parent."""
    baseline = version.status.baseline
    return baseline.version if baseline and baseline.service == service else version.spec.lineage.parent


def pin(service: Obj, version: str) -> Obj:
    """The field that pins a version, as an object to apply."""
    return _patch(service, spec={"model": {"version": version}})


def return_state(service: Obj | None, version: str) -> State:
    """Whether a service that was pinned to an earlier version takes it."""
    if service is None:
        return Over("the service does not exist")
    try:
        status = status_of(service)
    except ValidationError as error:
        return unreadable(error)
    if not is_observed(service, status):
        return Going(NOT_OBSERVED)
    if status.candidate and status.candidate.version == version:
        return Done(f"{version} is pinned and the candidate, {serving(status)}. `promote` lets it take over at once")
    if status.stable and status.stable.version == version:
        return Done(f"{version} is pinned and serves")
    return stalled_state(service, status) or Going(ready_message(status) or f"waiting for {version}")


def _patch(service: Obj, spec: Obj | None = None, **metadata: Obj) -> Obj:
    known = {key: service["metadata"][key] for key in ("name", "namespace", "uid")}
    document = {"apiVersion": API_VERSION, "kind": "InferenceService", "metadata": known | metadata}
    return document | ({"spec": spec} if spec else {})
