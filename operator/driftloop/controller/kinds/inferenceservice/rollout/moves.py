"""The moves of a rollout: bring a revision up, scale it, give it another role, roll it back. Pure."""

from dataclasses import dataclass, replace
from typing import Literal

from driftloop.api.inferenceservice import Analysis, ServicePhase
from driftloop.controller.kinds.inferenceservice.children import keys_secret
from driftloop.controller.kinds.inferenceservice.observed import Revision, Version
from driftloop.controller.kinds.inferenceservice.revision import deployment
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import shorten, timestamp
from driftloop.controller.vocabulary.labels import ANALYSIS, FAILED, PROMOTED, RETRIED, RETRY, ROLE, SINCE
from driftloop.controller.vocabulary.plan import Action, Adjust, Create, Event
from driftloop.controller.vocabulary.reasons import Reason

POLL_SECONDS = 5.0  # how often the figures of a canary are looked at


@dataclass(frozen=True)
class Rollout:
    """What to do now, and how the service stands."""

    phase: ServicePhase
    reason: Reason | Literal[""]  # "" is only what a Choice without a reason would pass on
    message: str
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    candidate: Revision | None = None  # only while it is one
    analysis: Analysis | None = None
    failed: tuple[str, ...] = ()  # all that are not tried again
    blocked: bool = False  # the spec asks for what cannot be had
    requeue_after: float | None = POLL_SECONDS
    beside: tuple[Action, ...] = ()  # independent of `actions` and of each other


@dataclass(frozen=True)
class Failure:
    """Why a candidate is rolled back."""

    reason: Reason
    message: str
    analysis: Analysis | None = None  # what it was found by, if it was


def canary_size(replicas: int) -> int:
    """Candidate pods beside `replicas` of stable during the analysis.

    >>> [canary_size(replicas) for replicas in (0, 1, 2, 4, 5)]
    [0, 1, 1, 2, 2]
    """
    return min(replicas, max(1, replicas // 2))


def bring_up(situation: Situation, version: Version, phase: Literal["Deploying", "Canary"]) -> Rollout:
    """Create the Deployment of the version's revision, or make the one that is there the candidate again."""
    observed, revision = situation.observed, situation.revision_of(version)
    replicas = observed.spec.replicas if phase == "Deploying" else canary_size(observed.spec.replicas)
    existing = next((each for each in observed.revisions if each.revision == revision), None)
    actions: tuple[Action, ...]
    if existing is None:
        body = deployment(observed, version, replicas, situation.settings, situation.now)
        actions = (Create(keys_secret(observed)), Create(body))
    else:
        afresh = {SINCE: timestamp(situation.now), FAILED: None, ANALYSIS: None, PROMOTED: None, RETRIED: None}
        actions = (
            replace(
                unchanged(situation, existing), replicas=replicas, labels={ROLE: "candidate"}, annotations=dict(afresh)
            ),
        )
    message = f"brings up {version.name} as revision {revision}, {replicas} pods"
    event = Event("Normal", Reason.CANDIDATE_CHOSEN, message)
    reason = Reason.CANDIDATE_STARTING if phase == "Canary" else Reason.DEPLOYING
    return Rollout(phase, reason, message, actions, (event,), candidate=existing)


def roll_back(situation: Situation, candidate: Revision, failure: Failure) -> Rollout:
    """Scale the candidate to 0 and keep its Deployment as the memory of its failure."""
    used_up = situation.observed.annotations.get(RETRY) == candidate.revision
    action = replace(
        unchanged(situation, candidate),
        replicas=0,
        labels={ROLE: "failed"},
        annotations={
            FAILED: shorten(f"{failure.reason}: {failure.message}", 1000),
            ANALYSIS: None,
            RETRIED: "true" if used_up else None,
        },
    )
    message = f"{candidate.version} (revision {candidate.revision}) was rolled back: {failure.message}"
    return Rollout(
        "Serving" if situation.stable else "Pending",
        Reason.ROLLED_BACK,
        message,
        (action,),
        (Event("Warning", Reason.ROLLED_BACK, shorten(message, 1000)),),
        analysis=failure.analysis,
        failed=(candidate.revision,),
    )


def take_over(situation: Situation, candidate: Revision) -> Adjust:
    """Make the candidate stable."""
    return replace(
        unchanged(situation, candidate),
        replicas=situation.observed.spec.replicas,
        labels={ROLE: "stable"},
        annotations={SINCE: timestamp(situation.now), ANALYSIS: None, PROMOTED: None, FAILED: None},
    )


def retire(situation: Situation, revision: Revision) -> Adjust:
    """Let its pods end by draining; the Deployment stays until they are gone."""
    notes = {ANALYSIS: None, PROMOTED: None}
    return replace(unchanged(situation, revision), replicas=0, labels={ROLE: "retired"}, annotations=dict(notes))


def scale(situation: Situation, revision: Revision, replicas: int) -> tuple[Adjust, ...]:
    """Nothing where it is wanted so already."""
    return (replace(unchanged(situation, revision), replicas=replicas),) if revision.replicas != replicas else ()


def unchanged(situation: Situation, revision: Revision) -> Adjust:
    """An Adjust of the revision's Deployment as it was observed, which changes nothing yet."""
    namespace = situation.observed.namespace
    return Adjust(namespace, revision.name, revision.uid, resource_version=revision.resource_version)


def because(revision: Revision) -> str:
    """The pods' own reason, to be appended to a message."""
    return f": {revision.problem}" if revision.problem else ""
