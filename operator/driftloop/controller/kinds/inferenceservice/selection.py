"""Which revision should serve. Pure.

It is the pinned version, else the newest Approved version of the family that has all that the service requires
(`acceptance`). A revision that was rolled back is not chosen until a person requests a retry. If nothing can be chosen,
the reason is reported and the current revision keeps serving.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from driftloop.api.inferenceservice import ServingPlan, WaitingVersion
from driftloop.controller.kinds.engines import obstacle
from driftloop.controller.kinds.inferenceservice import acceptance
from driftloop.controller.kinds.inferenceservice.observed import Version
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.kinds.serving_memory import DoesNotFit
from driftloop.controller.kinds.versions import UNJUDGED
from driftloop.controller.vocabulary.labels import APPROVE_VERSION, RETRY
from driftloop.controller.vocabulary.reasons import Reason


@dataclass(frozen=True)
class Choice:
    """The version and revision that should serve. If both are None, the current revision keeps serving."""

    version: Version | None = None  # the chosen version
    revision: str | None = None  # the hash that names what serves it (revision.py)
    reason: Reason | Literal[""] = ""  # why a newer or pinned version was not chosen
    message: str = ""  # the same in words, with what to do
    blocked: bool = False  # the spec can't be fulfilled: a person must act
    waiting: WaitingVersion | None = None  # the newest version that is not taken, as it lacks what is required


def choose(situation: Situation) -> Choice:
    """The pinned version, or the newest of the family that may serve; none while its engine can't run."""
    if fault := obstacle(situation.observed.spec.engine, situation.settings):
        return Choice(reason=Reason.ENGINE_NOT_POSSIBLE, message=f"spec.{fault}", blocked=True)
    spec = situation.observed.spec
    if spec.model.version:
        return _pinned(situation, spec.model.version)
    if spec.approval == "git":
        message = "approval is git: commit one in spec.model.version, such as that of status.proposal"
        return Choice(reason=Reason.NO_VERSION_PINNED, message=message)
    return newest(situation)


def _pinned(situation: Situation, name: str) -> Choice:
    observed = situation.observed
    version = observed.version(name)
    if version is None:
        return Choice(
            reason=Reason.VERSION_NOT_FOUND,
            message=f"spec.model.version: there is no ModelVersion {name} of family {observed.spec.model.family} "
            "in this namespace",
            blocked=True,
        )
    if version.phase in ("Rejected", "Failed"):
        return Choice(
            reason=Reason.VERSION_NOT_APPROVED,
            message=f"spec.model.version: {name} is {version.phase} ({version.summary or 'see its gates'}): "
            "pin an Approved version",
            blocked=True,
        )
    if not _may_serve(situation, version):
        unproven = version.phase == "AwaitingApproval"
        why = "awaits approval: no suite judged it, see its condition" if unproven else "has not been judged yet"
        return Choice(reason=Reason.VERSION_NOT_APPROVED, message=f"spec.model.version: {name} {why}")
    return _take(situation, version) or _failed(situation, version)


def lacks(situation: Situation, version: Version) -> tuple[str, ...]:
    """What an Approved version lacks before the service takes it. Nothing is missing while it is evaluated again."""
    pinned = situation.observed.spec.model.version is not None
    return acceptance.missing(situation, version) if pinned or _evidence_holds(situation, version) else ()


def newest(situation: Situation) -> Choice:
    """The newest version of the family that may serve; the one that serves if there is no newer one."""
    held = Choice()  # why the newest of the versions that are not taken is not taken
    for version in _newer(situation):
        if not _may_serve(situation, version):
            continue
        choice = _take(situation, version) if _evidence_holds(situation, version) else _outdated(version)
        if choice is None:
            continue  # it was rolled back
        if choice.revision:
            return replace(choice, waiting=held.waiting)
        held = held if held.reason else choice
    if situation.stable is None:
        return held if held.reason else _nothing(situation)
    if situation.serving is None:  # deleted by force; its pods keep their copy of the model
        return held
    return _take(situation, situation.serving, held) or _failed(situation, situation.serving)


def _newer(situation: Situation) -> Iterator[Version]:
    """Versions that are newer than the one that serves, newest first; all versions if none serves."""
    stable, serving = situation.stable, situation.serving
    for version in sorted(situation.observed.versions, key=lambda version: version.age_key, reverse=True):
        if stable and version.name == stable.version:
            return
        if serving and version.age_key < serving.age_key:
            return
        yield version


def _evidence_holds(situation: Situation, version: Version) -> bool:
    """Whether the version was compared with the version that serves now. If not, it is being evaluated again.

    If a family has several services, the comparison is with the newest of their stable versions and counts for all. A
    version that is a candidate already was compared when it was chosen, even if its status has been lost since.
    """
    if situation.stable is None or _is_at_work(situation, version):
        return True
    if version.baseline_service is None:
        return False
    other_service = version.baseline_service != situation.observed.name
    return other_service or version.baseline_digest == situation.stable.digest


def _may_serve(situation: Situation, version: Version) -> bool:
    """Whether it is Approved, or serves already and its status was lost: a lost status must not move traffic."""
    undecided = version.phase in (*UNJUDGED, "AwaitingApproval")
    return version.phase == "Approved" or (undecided and _is_at_work(situation, version))


def _is_at_work(situation: Situation, version: Version) -> bool:
    """Whether the version is stable or candidate in this service."""
    revisions = situation.observed.revisions
    return any(r.version == version.name and r.role in ("stable", "candidate") for r in revisions)


def _is_deployed(situation: Situation, revision: str) -> bool:
    """Whether pods of it exist: these show better than an estimate whether the model fits."""
    return any(r.revision == revision and r.role in ("stable", "candidate") for r in situation.observed.revisions)


def _take(situation: Situation, version: Version, why: Choice | None = None) -> Choice | None:
    """Choose the version, unless it lacks what the service requires, or does not fit. None if it was rolled back.

    `why` has the reason why no newer one was chosen.
    """
    stable, revision, why = situation.stable, situation.revision_of(version), why or Choice()
    if revision in situation.failed and not (stable and stable.revision == revision):
        return None
    if lacking := acceptance.missing(situation, version):
        return _not_accepted(situation, version, lacking, why)
    match situation.memory[version.name]:
        case DoesNotFit(message) if not _is_deployed(situation, revision):
            message = f"{version.name} does not fit: spec.{message}"
            return Choice(reason=Reason.ENGINE_NOT_POSSIBLE, message=message, blocked=True, waiting=why.waiting)
        case DoesNotFit() | ServingPlan() | None:
            pass
        case never:
            assert_never(never)
    return replace(why, version=version, revision=revision)


def _not_accepted(situation: Situation, version: Version, lacking: tuple[str, ...], why: Choice) -> Choice:
    """Not chosen: its own evidence is not enough. Only a person can help a pinned version, or the one that serves."""
    fixed = situation.observed.spec.model.version is not None or version == situation.serving
    held = acceptance.waiting(version, lacking)
    return Choice(
        reason=Reason.NOT_ACCEPTED, message=acceptance.message(held), blocked=fixed, waiting=why.waiting or held
    )


def _failed(situation: Situation, version: Version) -> Choice:
    revision = situation.revision_of(version)
    reasons = (r.failed for r in situation.observed.revisions if r.revision == revision and r.failed)
    return Choice(
        reason=Reason.REVISION_FAILED,
        message=f"revision {revision} of {version.name} is not tried again: {next(reasons, 'it was rolled back')}. "
        f"Change the spec, or annotate the service with {RETRY}={revision}",
        blocked=True,
    )


def _outdated(version: Version) -> Choice:
    return Choice(
        reason=Reason.EVIDENCE_OUTDATED,
        message=f"{version.name} was compared with a version that no longer serves: waiting for its new evaluation",
    )


def _nothing(situation: Situation) -> Choice:
    versions = situation.observed.versions
    if failed := [version for version in versions if version.phase == "Approved"]:
        return _failed(situation, max(failed, key=lambda version: version.age_key))
    family = situation.observed.spec.model.family
    message = f"waiting for an Approved ModelVersion of family {family} in this namespace"
    if unproven := [version for version in versions if version.phase == "AwaitingApproval"]:
        name = max(unproven, key=lambda version: version.age_key).name
        message += f"; {name} awaits approval: kubectl annotate mver {name} {APPROVE_VERSION}={name}"
    return Choice(reason=Reason.NO_APPROVED_VERSION, message=message)
