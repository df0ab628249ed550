"""Clean-up of other revisions: remove their pods, then their Deployments, except the records of failures. Pure."""

from dataclasses import replace
from typing import assert_never

from driftloop.controller.kinds.inferenceservice.observed import Revision
from driftloop.controller.kinds.inferenceservice.rollout.moves import Rollout, retire, scale, unchanged
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.labels import RETRIED, RETRY
from driftloop.controller.vocabulary.plan import (
    Action,
    Adjust,
    Annotate,
    Apply,
    Create,
    Delete,
    Disrupt,
    FailPod,
    Label,
)

_MAX_FAILED = 32  # failed revisions in the status


def sweep(situation: Situation, step: Rollout) -> tuple[Action, ...]:
    """Clean up the revisions that `step` does not act on."""
    kept = {revision.uid for revision in (situation.stable, step.candidate) if revision}
    kept |= {uid for action in (*step.actions, *step.beside) if (uid := _adjusted(action)) is not None}
    others = (revision for revision in situation.observed.revisions if revision.uid not in kept)
    return tuple(action for revision in others for action in _clear(situation, revision))


def failed_list(situation: Situation, step: Rollout) -> tuple[str, ...]:
    """The failed revisions in the order of the status, new ones at the end; without one that is being retried."""
    known = [name for name in situation.observed.status.failed_revisions if name in situation.failed]
    others = sorted(situation.failed.difference(known))
    new = [name for name in step.failed if name not in situation.failed]
    return (*known, *others, *new)[-_MAX_FAILED:]


def _adjusted(action: Action) -> str | None:
    """UID of the Deployment that an action adjusts; None for an action of another kind."""
    match action:
        case Adjust(uid=uid):
            return uid
        case Create() | Apply() | Delete() | Label() | Annotate() | FailPod() | Disrupt():
            return None
        case never:
            assert_never(never)


def _clear(situation: Situation, revision: Revision) -> tuple[Action, ...]:
    # Another candidate has replaced it, or a promotion stopped between its two writes.
    if revision.role in ("candidate", "stable"):
        return (retire(situation, revision),)
    if revision.replicas > 0:
        return scale(situation, revision, 0)
    if revision.pods == 0 and (revision.role == "retired" or _is_forgotten(situation, revision)):
        namespace = situation.observed.namespace
        observed = revision.resource_version
        return (Delete("apps/v1", "Deployment", namespace, revision.name, revision.uid, observed),)
    if revision.retried and situation.observed.annotations.get(RETRY) != revision.revision:
        return (replace(unchanged(situation, revision), annotations={RETRIED: None}),)
    return ()


def _is_forgotten(situation: Situation, revision: Revision) -> bool:
    """Whether the failed version can't be chosen any more: it was deleted, or is older than the one that serves."""
    version, serving = situation.observed.version(revision.version), situation.serving
    return version is None or (serving is not None and version.age_key < serving.age_key)
