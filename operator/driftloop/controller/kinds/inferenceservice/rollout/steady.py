"""The state without a canary: stable is the revision that should serve, or no better one can be chosen. Pure."""

from driftloop.api.inferenceservice import ServicePhase
from driftloop.controller.kinds.inferenceservice.observed import Revision
from driftloop.controller.kinds.inferenceservice.rollout.moves import (
    POLL_SECONDS,
    Rollout,
    problem_suffix,
    retire,
    scale,
)
from driftloop.controller.kinds.inferenceservice.selection import Choice
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.plan import Action, Event
from driftloop.controller.vocabulary.reasons import Reason


def steady(situation: Situation, stable: Revision, choice: Choice) -> Rollout:
    """Keep stable at its number of pods, and withdraw a candidate that should no longer serve."""
    replicas, candidate = situation.observed.spec.replicas, situation.candidate
    actions: tuple[Action, ...] = scale(situation, stable, replicas)
    if candidate and is_needed(situation, stable, candidate):
        message = f"returning to {stable.version}: {stable.available} of {replicas} pods are ready"
        return Rollout("Canary", Reason.RETURNING, message, actions, candidate=candidate)
    events: tuple[Event, ...] = ()
    if candidate:
        actions += (retire(situation, candidate),)
        withdrawn = f"{candidate.version} (revision {candidate.revision}) was withdrawn: it should no longer serve"
        events = (Event("Normal", Reason.CANARY_WITHDRAWN, withdrawn),)
    short = stable.available < replicas
    message = f"{stable.version} serves: {stable.available} of {replicas} pods are ready"
    message += problem_suffix(stable) if short else ""
    message += f". {choice.message}" if choice.message else ""
    phase: ServicePhase = "Degraded" if short and stable.available == 0 else "Serving"
    reason = choice.reason or (Reason.PODS_NOT_READY if short else Reason.SERVING)
    return Rollout(phase, reason, message, actions, events, requeue_after=POLL_SECONDS if short else None)


def is_needed(situation: Situation, stable: Revision, candidate: Revision) -> bool:
    """Whether the candidate's pods are still needed: stable has no pod, or has not yet got back all that it gave up.

    A candidate without users is not needed.
    """
    replicas = situation.observed.spec.replicas
    short = stable.available < (replicas if candidate.promoted else min(1, replicas))
    return candidate.available > 0 and short and candidate.has_users
