"""The moves of a rollout: start a revision, scale it, change its role, roll it back. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from driftloop.api.inferenceservice import (
    Analysis,
    InferenceServiceSpec,
    RolloutCommand,
    ServicePhase,
    ShadowStatus,
    SleepStatus,
    WaitingVersion,
)
from driftloop.controller.kinds.inferenceservice.children import keys_secret
from driftloop.controller.kinds.inferenceservice.observed import Revision, Version
from driftloop.controller.kinds.inferenceservice.revision import deployment
from driftloop.controller.kinds.inferenceservice.rollout.steps import weighted_size
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import shorten, timestamp
from driftloop.controller.vocabulary.labels import (
    ANALYSIS,
    COMMAND,
    FAILED,
    HIDDEN,
    PROMOTED,
    RETRIED,
    RETRY,
    ROLE,
    SHADOW_STARTED,
    SINCE,
    SLEEP,
    WEIGHT,
)
from driftloop.controller.vocabulary.plan import Action, Adjust, Create, Event
from driftloop.controller.vocabulary.reasons import Reason

POLL_SECONDS = 5.0  # interval at which a rollout is checked
# Annotations of a revision that the Service selects.
RELEASED: dict[str, str | None] = {HIDDEN: None, SHADOW_STARTED: None, WEIGHT: None}


@dataclass(frozen=True)
class Rollout:
    """The next actions of a rollout, and the state of the service."""

    phase: ServicePhase  # phase of the service
    reason: Reason | Literal[""]  # "" only if a Choice has no reason
    message: str  # the reason in words
    actions: tuple[Action, ...] = ()  # in this order; the first failure stops the rest
    events: tuple[Event, ...] = ()  # recorded once the actions have succeeded
    candidate: Revision | None = None  # the candidate, while there is one
    analysis: Analysis | None = None  # the comparison of canary and stable, if there is one
    shadow: ShadowStatus | None = None  # the comparison in the shadow, if there is one
    hides: bool = False  # whether the actions bring up a hidden revision: the Service must select only stable before
    failed: tuple[str, ...] = ()  # revisions that are not tried again
    blocked: bool = False  # the spec can't be fulfilled
    requeue_after: float | None = POLL_SECONDS  # seconds until the next check; None: only a change matters
    beside: tuple[Action, ...] = ()  # independent of `actions` and of each other
    sleep: SleepStatus | None = None  # with scaleToZero, how far it is; None: awake
    waiting: WaitingVersion | None = None  # an Approved version that the service does not take
    command: RolloutCommand | None = None  # a command of a person that was just obeyed, or ignored


@dataclass(frozen=True)
class Failure:
    """Why a candidate is rolled back."""

    reason: Reason  # for condition and Event
    message: str  # the same in words
    analysis: Analysis | None = None  # the analysis that showed it, if one did
    notes: Mapping[str, str] = field(default_factory=dict)  # further annotations of its Deployment


@dataclass(frozen=True)
class Success:
    """Why a candidate takes over."""

    event: Event  # says why
    analysis: Analysis | None = None  # the figures so far
    notes: Mapping[str, str] = field(default_factory=dict)  # further annotations of its Deployment


def canary_size(replicas: int) -> int:
    """Number of candidate pods beside `replicas` stable pods during the analysis.

    >>> [canary_size(replicas) for replicas in (0, 1, 2, 4, 5)]
    [0, 1, 1, 2, 2]
    """
    return min(replicas, max(1, replicas // 2))


def bring_up(situation: Situation, version: Version, phase: Literal["Deploying", "Shadow", "Canary"]) -> Rollout:
    """Create the Deployment of the version's revision, or make an existing one the candidate again.

    In the phase Shadow it is hidden: it gets no users. With a Gateway it is hidden, too, and gets users by its weight.
    """
    observed, revision = situation.observed, situation.revision_of(version)
    marks = _marks(observed.spec, phase)
    replicas = _size(observed.spec, phase)
    existing = next((known for known in observed.revisions if known.revision == revision), None)
    actions: tuple[Action, ...]
    if existing is None:
        body = deployment(observed, version, revision, replicas, situation.settings, situation.now)
        body["metadata"]["annotations"] |= marks
        actions = (Create(keys_secret(observed)), Create(body))
    else:
        reset = {SINCE: timestamp(situation.now), FAILED: None, ANALYSIS: None, PROMOTED: None, RETRIED: None}
        reset |= {SLEEP: None}
        reset |= RELEASED | marks
        reset |= {COMMAND: None} if existing.is_held else {}  # a pause ends with the rollout that it was about
        actions = (
            replace(
                unchanged(situation, existing), replicas=replicas, labels={ROLE: "candidate"}, annotations=dict(reset)
            ),
        )
    message = f"starting {version.name} as revision {revision} with {replicas} pods"
    event = Event("Normal", Reason.CANDIDATE_CHOSEN, message)
    reason = Reason.DEPLOYING if phase == "Deploying" else Reason.CANDIDATE_STARTING
    return Rollout(phase, reason, message, actions, (event,), candidate=existing, hides=bool(marks))


def _marks(spec: InferenceServiceSpec, phase: Literal["Deploying", "Shadow", "Canary"]) -> dict[str, str]:
    """Annotations of a new candidate that the Service does not select."""
    if phase == "Shadow":
        return {HIDDEN: "true"}
    return {HIDDEN: "true", WEIGHT: "0"} if phase == "Canary" and spec.gateway else {}


def _size(spec: InferenceServiceSpec, phase: Literal["Deploying", "Shadow", "Canary"]) -> int:
    """Number of pods of a new candidate."""
    if phase == "Deploying":
        return spec.replicas
    return weighted_size(spec) if phase == "Canary" and spec.gateway else canary_size(spec.replicas)


def roll_back(situation: Situation, candidate: Revision, failure: Failure) -> Rollout:
    """Scale the candidate to 0 and keep its Deployment as the record of its failure."""
    used_up = situation.observed.annotations.get(RETRY) == candidate.revision
    action = replace(
        unchanged(situation, candidate),
        replicas=0,
        labels={ROLE: "failed"},
        annotations={
            FAILED: shorten(f"{failure.reason}: {failure.message}", 1000),
            ANALYSIS: None,
            RETRIED: "true" if used_up else None,
            **failure.notes,
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


def make_stable(situation: Situation, candidate: Revision) -> Adjust:
    """Make the candidate stable."""
    return replace(
        unchanged(situation, candidate),
        replicas=situation.observed.spec.replicas,
        labels={ROLE: "stable"},
        annotations={SINCE: timestamp(situation.now), ANALYSIS: None, PROMOTED: None, FAILED: None, **RELEASED},
    )


def retire(situation: Situation, revision: Revision) -> Adjust:
    """Drain the pods of a revision. Its Deployment is deleted after they have stopped."""
    notes = {ANALYSIS: None, PROMOTED: None}
    return replace(unchanged(situation, revision), replicas=0, labels={ROLE: "retired"}, annotations=dict(notes))


def scale(situation: Situation, revision: Revision, replicas: int) -> tuple[Adjust, ...]:
    """Set the number of pods; no action if it is set already."""
    return (replace(unchanged(situation, revision), replicas=replicas),) if revision.replicas != replicas else ()


def unchanged(situation: Situation, revision: Revision) -> Adjust:
    """An Adjust of the revision's Deployment without changes, to which callers add theirs."""
    namespace = situation.observed.namespace
    return Adjust(namespace, revision.name, revision.uid, resource_version=revision.resource_version)


def problem_suffix(revision: Revision) -> str:
    """The problem of a revision's pods, to be appended to a message."""
    return f": {revision.problem}" if revision.problem else ""
