"""Which revision should serve. Pure.

The pinned version, or the last Approved of the family; never one that was rolled back, until somebody asks.
What cannot be chosen is said, and what serves goes on serving.
"""

from dataclasses import dataclass
from typing import Literal

from driftloop.controller.kinds.inferenceservice.observed import Observed, Revision, Version
from driftloop.controller.kinds.inferenceservice.revision import revision_of
from driftloop.controller.vocabulary.labels import APPROVE_VERSION, RETRY
from driftloop.controller.vocabulary.reasons import Reason

UNJUDGED = (None, "Pending", "Evaluating")


@dataclass(frozen=True)
class Choice:
    """The revision that should serve; None: go on with what there is. `reason` says why it isn't another.

    `blocked` when the spec asks for what cannot be had: somebody has to act.
    """

    version: Version | None = None
    revision: str | None = None
    reason: Reason | Literal[""] = ""
    message: str = ""
    blocked: bool = False


def choose(observed: Observed) -> Choice:
    """The pinned version, or the newest of the family that may serve."""
    stable = observed.role("stable")
    pinned = observed.spec.model.version
    return _pinned(observed, stable, pinned) if pinned else _newest(observed, stable)


def failed_revisions(observed: Observed) -> frozenset[str]:
    """Revisions that were rolled back and that nobody asked to try again.

    The retry annotation stays on the object, and the operator never edits what is the user's. So a revision that
    failed again while the annotation named it has used it up: it takes another value, or none in between.
    """
    deployed = {revision.revision: revision for revision in observed.revisions if revision.failed is not None}
    asked = observed.annotations.get(RETRY)
    return frozenset(
        name
        for name in {*observed.status.failed_revisions, *deployed}
        if name != asked or (name in deployed and deployed[name].retried)
    )


def _pinned(observed: Observed, stable: Revision | None, name: str) -> Choice:
    family = observed.spec.model.family
    version = observed.version(name)
    if version is None:
        return Choice(
            reason=Reason.VERSION_NOT_FOUND,
            message=f"spec.model.version: there is no ModelVersion {name} of family {family} in this namespace",
            blocked=True,
        )
    if version.phase in ("Rejected", "Failed"):
        return Choice(
            reason=Reason.VERSION_NOT_APPROVED,
            message=f"spec.model.version: {name} is {version.phase} ({version.summary or 'see its gates'}): "
            "pin an Approved version",
            blocked=True,
        )
    if not _may_serve(observed, version):
        unproven = version.phase == "AwaitingApproval"
        why = "awaits approval: no suite judged it, see its condition" if unproven else "has not been judged yet"
        return Choice(reason=Reason.VERSION_NOT_APPROVED, message=f"spec.model.version: {name} {why}")
    return _take(observed, version, stable) or _failed(observed, version)


def _newest(observed: Observed, stable: Revision | None) -> Choice:
    serving = observed.version(stable.version) if stable else None
    outdated: Version | None = None
    for version in sorted(observed.versions, key=lambda v: v.age_key, reverse=True):
        if stable and version.name == stable.version:
            break
        if serving and version.age_key < serving.age_key:
            break
        if not _may_serve(observed, version):
            continue
        if not evidence_holds(observed, version, stable):
            outdated = outdated or version
            continue
        if choice := _take(observed, version, stable):
            return choice
    waiting = _outdated(outdated) if outdated else Choice()
    if stable is None:
        return waiting if outdated else _nothing(observed)
    if serving is None:  # deleted by force: its pods have their copy
        return waiting
    return _take(observed, serving, stable, waiting) or _failed(observed, serving)


def evidence_holds(observed: Observed, version: Version, stable: Revision | None) -> bool:
    """Whether the version was compared with what serves now; if not, its own controller evaluates it again.

    A family may have several services: evidence names one, and the others take its word. What is tried already was
    compared when it was chosen, whatever became of its status.
    """
    if stable is None or version.name in _used(observed):
        return True
    if version.baseline_service is None:
        return False
    return version.baseline_service != observed.name or version.baseline_digest == stable.digest


def _may_serve(observed: Observed, version: Version) -> bool:
    """Approved, or in use while its status was lost: wiping a status must move no traffic."""
    in_doubt = (*UNJUDGED, "AwaitingApproval")
    return version.phase == "Approved" or (version.phase in in_doubt and version.name in _used(observed))


def _used(observed: Observed) -> set[str]:
    return {revision.version for revision in observed.revisions if revision.role in ("stable", "candidate")}


def _take(observed: Observed, version: Version, stable: Revision | None, why: Choice | None = None) -> Choice | None:
    revision, why = revision_of(observed, version), why or Choice()
    if revision in failed_revisions(observed) and not (stable and stable.revision == revision):
        return None
    return Choice(version, revision, why.reason, why.message)


def _failed(observed: Observed, version: Version) -> Choice:
    revision = revision_of(observed, version)
    why = next((r.failed for r in observed.revisions if r.revision == revision and r.failed), "it was rolled back")
    return Choice(
        reason=Reason.REVISION_FAILED,
        message=f"revision {revision} of {version.name} is not tried again: {why}. Change the spec, or "
        f"annotate the service with {RETRY}={revision}",
        blocked=True,
    )


def _outdated(version: Version) -> Choice:
    return Choice(
        reason=Reason.EVIDENCE_OUTDATED,
        message=f"{version.name} was compared with another version than the one that serves now: "
        "it waits to be evaluated again",
    )


def _nothing(observed: Observed) -> Choice:
    family = observed.spec.model.family
    failed = [v for v in observed.versions if v.phase == "Approved"]
    if failed:
        return _failed(observed, max(failed, key=lambda v: v.age_key))
    message = f"waits for an Approved ModelVersion of family {family} in this namespace"
    if unproven := [v for v in observed.versions if v.phase == "AwaitingApproval"]:
        name = max(unproven, key=lambda v: v.age_key).name
        message += f"; {name} awaits approval: kubectl annotate mver {name} {APPROVE_VERSION}={name}"
    return Choice(reason=Reason.NO_APPROVED_VERSION, message=message)
