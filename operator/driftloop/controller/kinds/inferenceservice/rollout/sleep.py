"""A service with scaleToZero falls asleep and wakes. Pure.

The state is an annotation of stable's Deployment, so it survives the loss of the status. Only a service without a
rollout sleeps. A version that is approved meanwhile waits: without requests there is nothing to compare.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import assert_never

from driftloop.api.inferenceservice import SleepState, SleepStatus
from driftloop.controller.kinds.inferenceservice.door import is_door_ready, leads_to_door
from driftloop.controller.kinds.inferenceservice.idle import Facts, Requests, is_silent, next_look, next_state, obstacle
from driftloop.controller.kinds.inferenceservice.observed import Revision
from driftloop.controller.kinds.inferenceservice.rollout.moves import (
    POLL_SECONDS,
    Rollout,
    problem_suffix,
    scale,
    unchanged,
)
from driftloop.controller.kinds.inferenceservice.selection import Choice
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp
from driftloop.controller.vocabulary.labels import SLEEP
from driftloop.controller.vocabulary.plan import Adjust, Event
from driftloop.controller.vocabulary.reasons import Reason

DOOR_SECONDS = 2.0  # between two questions to the door: a request waits so long, beside the start of the pod


@dataclass(frozen=True)
class Sleeper:
    """A service that is not awake."""

    situation: Situation  # the facts of this reconcile
    stable: Revision  # the revision that serves
    choice: Choice  # the revision that should serve
    facts: Facts  # what decides about its sleep

    @property
    def replicas(self) -> int:
        """Number of pods while it is awake."""
        return self.situation.observed.spec.replicas

    def enter(self, state: SleepState, replicas: int) -> tuple[Adjust, ...]:
        """Set the number of pods, and record the state if it is new."""
        if self.facts.state == state:
            return scale(self.situation, self.stable, replicas)
        return (replace(_mark(self.situation, self.stable, state), replicas=replicas),)

    def once(self, state: SleepState, event: Event) -> tuple[Event, ...]:
        """The Event, when the state is new."""
        return () if self.facts.state == state else (event,)


def or_closing(situation: Situation, stable: Revision, step: Rollout) -> Rollout:
    """The step of a service that is awake and has no rollout. If it has been idle for long enough, it closes."""
    if situation.observed.spec.scale_to_zero is None or step.actions:
        return step
    facts = _facts(situation, stable, situation.candidate is None)
    if next_state(facts) == "Closing":
        message = f"{stable.version} serves. No request came for {facts.idle_seconds} s, so new ones go to the door"
        closing = (_mark(situation, stable, "Closing"),)
        return replace(step, reason=Reason.CLOSING, message=message, actions=closing)
    waits = [wait for wait in (step.requeue_after, next_look(facts)) if wait is not None]
    why = obstacle(facts)
    message = f"{step.message}. It can't sleep: {why}" if why else step.message
    return replace(step, message=message, requeue_after=min(waits))


def not_awake(situation: Situation, stable: Revision, choice: Choice) -> Rollout:
    """The step of a service that closes, sleeps or wakes."""
    settled = situation.candidate is None and choice.revision in (None, stable.revision)
    facts = _facts(situation, stable, settled)
    sleeper = Sleeper(situation, stable, choice, replace(facts, given_up=not settled and _is_late(situation, facts)))
    match state := next_state(sleeper.facts):
        case "Awake":
            return _open(sleeper)
        case "Closing":
            step = _close(sleeper)
        case "Asleep":
            step = _sleep(sleeper)
        case "Waking":
            step = _wake(sleeper)
        case never:
            assert_never(never)
    return replace(step, candidate=situation.candidate, sleep=_status(sleeper.facts, state))


def _close(sleeper: Sleeper) -> Rollout:
    message = f"{sleeper.stable.version} serves, and new requests go to the door"
    return Rollout("Serving", Reason.CLOSING, message, requeue_after=DOOR_SECONDS / 2)


def _sleep(sleeper: Sleeper) -> Rollout:
    stable, facts = sleeper.stable, sleeper.facts
    since = facts.since if facts.state == "Asleep" else facts.now
    start = f", in about {stable.cold_start.total_seconds} s" if stable.cold_start else ""
    message = f"{stable.version} is asleep since {timestamp(since)}: the next request starts {sleeper.replicas} pods"
    message += start + _put_off(sleeper)
    slept = Event("Normal", Reason.ASLEEP, f"no request came for {facts.idle_seconds} s: {stable.version} gets no pods")
    actions, events = sleeper.enter("Asleep", 0), sleeper.once("Asleep", slept)
    return Rollout("Asleep", Reason.ASLEEP, message, actions, events, requeue_after=DOOR_SECONDS)


def _put_off(sleeper: Sleeper) -> str:
    """What waits until the service is awake."""
    choice = sleeper.choice
    if choice.version is None or choice.revision == sleeper.stable.revision:
        return f". {choice.message}" if choice.message else ""
    return f". {choice.version.name} (revision {choice.revision}) is rolled out when the service is awake"


def _wake(sleeper: Sleeper) -> Rollout:
    """Start the pods, and wait for them without a limit: the service sleeps again only after they have served."""
    stable, late = sleeper.stable, _is_late(sleeper.situation, sleeper.facts)
    message = f"{stable.version} wakes: {stable.available} of {sleeper.replicas} pods are ready"
    woken = Event("Normal", Reason.WAKING, f"{_why(sleeper)}: {stable.version} gets {sleeper.replicas} pods")
    return Rollout(
        "Waking",
        Reason.PROGRESS_DEADLINE_EXCEEDED if late else Reason.WAKING,
        message + problem_suffix(stable),
        sleeper.enter("Waking", sleeper.replicas),
        sleeper.once("Waking", woken),
        blocked=late,
        requeue_after=POLL_SECONDS,
    )


def _is_late(situation: Situation, facts: Facts) -> bool:
    """Whether the pods of a service that wakes have had `canary.progressDeadlineSeconds` to be ready."""
    deadline = timedelta(seconds=situation.observed.spec.canary.progress_deadline_seconds)
    return facts.state == "Waking" and facts.now - facts.since > deadline


def _why(sleeper: Sleeper) -> str:
    """Why the service wakes."""
    facts = sleeper.facts
    if facts.idle_seconds is None:
        return "scaleToZero was removed"
    if is_silent(facts):
        return "the door does not answer"
    held = sum(door.held for door in facts.requests.doors if door is not None)
    return f"{held} requests wait at the door" if held else "a request came to the door"


def _open(sleeper: Sleeper) -> Rollout:
    """The Service selects the pods again. The door passes on what still comes."""
    stable = sleeper.stable
    message = f"{stable.version} serves: {stable.available} of {sleeper.replicas} pods are ready"
    action = replace(unchanged(sleeper.situation, stable), replicas=sleeper.replicas, annotations={SLEEP: None})
    events = (Event("Normal", Reason.AWAKE, message),) if sleeper.facts.state == "Waking" else ()
    return Rollout("Serving", Reason.SERVING, message, (action,), events, sleeper.situation.candidate)


def _mark(situation: Situation, stable: Revision, state: SleepState) -> Adjust:
    return replace(unchanged(situation, stable), annotations={SLEEP: f"{state} {timestamp(situation.now)}"})


def _facts(situation: Situation, stable: Revision, undisturbed: bool) -> Facts:
    observed, spec = situation.observed, situation.observed.spec
    requests = observed.requests or Requests()
    facts = Facts(
        state=stable.sleep.state if stable.sleep else "Awake",
        since=stable.sleep.since if stable.sleep else situation.now,
        now=situation.now,
        idle_seconds=spec.scale_to_zero.idle_seconds if spec.scale_to_zero else None,
        # Pods with HTTPS belong to an earlier spec, and the door speaks HTTP.
        undisturbed=undisturbed and stable.replicas == spec.replicas and not stable.has_tls,
        wanted=spec.replicas,
        available=stable.available,
        requests=requests,
        door_ready=is_door_ready(observed),
        at_door=leads_to_door(observed),
    )
    before = observed.status.sleep.unheard_since if observed.status.sleep else None
    unheard_since = parse_timestamp(before) if before else situation.now
    return replace(facts, unheard_since=unheard_since) if is_silent(facts) else facts


def _status(facts: Facts, state: SleepState) -> SleepStatus:
    since = facts.since if facts.state == state else facts.now
    unheard = facts.unheard_since if state == "Asleep" == facts.state else None
    return SleepStatus(state=state, since=timestamp(since), unheard_since=timestamp(unheard) if unheard else None)
