"""The first revision of a service: nothing serves yet. Pure."""

from datetime import timedelta

from driftloop.controller.kinds.inferenceservice.observed import Revision
from driftloop.controller.kinds.inferenceservice.rollout.moves import (
    POLL_SECONDS,
    Failure,
    Rollout,
    bring_up,
    make_stable,
    problem_suffix,
    retire,
    roll_back,
    scale,
)
from driftloop.controller.kinds.inferenceservice.selection import Choice
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.plan import Event
from driftloop.controller.vocabulary.reasons import Reason


def first(situation: Situation, choice: Choice) -> Rollout:
    """Start the chosen revision. It becomes stable with its first Ready pod."""
    candidate = situation.candidate
    if choice.version is None or choice.revision is None:
        return _nothing_to_start(situation, choice)
    if candidate is None or candidate.revision != choice.revision:
        return bring_up(situation, choice.version, "Deploying")
    if candidate.available >= min(1, situation.observed.spec.replicas):
        message = f"{candidate.version} serves as revision {candidate.revision}"
        event = Event("Normal", Reason.SERVING, message)
        return Rollout("Serving", Reason.SERVING, message, (make_stable(situation, candidate),), (event,))
    if candidate.broken:
        return roll_back(situation, candidate, Failure(Reason.PODS_BROKEN, candidate.problem))
    return _await_pods(situation, candidate)


def _nothing_to_start(situation: Situation, choice: Choice) -> Rollout:
    """Wait for a version.

    A candidate whose version needs an evaluation with a changed engine is withdrawn, as a version in use is not
    evaluated again.
    """
    candidate = situation.candidate
    if candidate and choice.waiting and choice.waiting.version == candidate.version:
        actions = (retire(situation, candidate),)
        return Rollout("Pending", choice.reason, choice.message, actions, requeue_after=None)
    return Rollout("Pending", choice.reason, choice.message, candidate=candidate, requeue_after=None)


def _await_pods(situation: Situation, candidate: Revision) -> Rollout:
    """Wait for the pods without a limit, because nothing else serves: an image or a node may still be added."""
    spec = situation.observed.spec
    late = situation.now - candidate.since > timedelta(seconds=spec.canary.progress_deadline_seconds)
    return Rollout(
        "Degraded" if late else "Deploying",
        Reason.PROGRESS_DEADLINE_EXCEEDED if late else Reason.DEPLOYING,
        f"{candidate.version}: {candidate.available} of {spec.replicas} pods are ready" + problem_suffix(candidate),
        scale(situation, candidate, spec.replicas),
        candidate=candidate,
        blocked=late,
        requeue_after=POLL_SECONDS * (6 if late else 1),
    )
