"""What is left of other revisions: no pods, and in the end no Deployment, except as the memory of a failure. Pure."""

from dataclasses import replace

from driftloop.controller.kinds.inferenceservice.observed import Revision
from driftloop.controller.kinds.inferenceservice.rollout.moves import Rollout, retire, scale, unchanged
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.labels import RETRIED, RETRY
from driftloop.controller.vocabulary.plan import Action, Adjust, Delete

_MAX_FAILED = 32  # remembered in status


def sweep(situation: Situation, step: Rollout) -> tuple[Action, ...]:
    """What to do with the revisions that `step` leaves alone."""
    kept = {revision.uid for revision in (situation.stable, step.candidate) if revision}
    kept |= {action.uid for action in (*step.actions, *step.beside) if isinstance(action, Adjust)}
    others = (revision for revision in situation.observed.revisions if revision.uid not in kept)
    return tuple(action for revision in others for action in _clear(situation, revision))


def failed_list(situation: Situation, step: Rollout) -> tuple[str, ...]:
    """Those failed before in their old order, new ones at the end; without what is being tried again."""
    known = [name for name in situation.observed.status.failed_revisions if name in situation.failed]
    others = sorted(situation.failed.difference(known))
    new = [name for name in step.failed if name not in situation.failed]
    return (*known, *others, *new)[-_MAX_FAILED:]


def _clear(situation: Situation, revision: Revision) -> tuple[Action, ...]:
    # Another candidate took its place, or a promotion was cut short between its two writes.
    if revision.role in ("candidate", "stable"):
        return (retire(situation, revision),)
    if revision.replicas > 0:
        return scale(situation, revision, 0)
    if revision.pods == 0 and (revision.role == "retired" or _is_forgotten(situation, revision)):
        namespace = situation.observed.namespace
        of = revision.resource_version
        return (Delete("apps/v1", "Deployment", namespace, revision.name, revision.uid, of),)
    if revision.retried and situation.observed.annotations.get(RETRY) != revision.revision:
        return (replace(unchanged(situation, revision), annotations={RETRIED: None}),)
    return ()


def _is_forgotten(situation: Situation, revision: Revision) -> bool:
    """Whether a failure's version is gone, or older than what serves: it will not be chosen any more."""
    version, serving = situation.observed.version(revision.version), situation.serving
    return version is None or (serving is not None and version.age_key < serving.age_key)
