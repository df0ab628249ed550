"""A candidate beside stable: wait for its pods, compare both, then exchange them pod by pod, or roll back. Pure."""

from dataclasses import dataclass, replace
from datetime import timedelta

from driftloop.api.inferenceservice import Analysis
from driftloop.controller.kinds.inferenceservice.analysis import analyse
from driftloop.controller.kinds.inferenceservice.observed import Revision, Version
from driftloop.controller.kinds.inferenceservice.questions import PAUSED_SECONDS, arms_due
from driftloop.controller.kinds.inferenceservice.rollout.moves import (
    POLL_SECONDS,
    Failure,
    Rollout,
    because,
    bring_up,
    canary_size,
    retire,
    roll_back,
    scale,
    take_over,
    unchanged,
)
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import find, shorten, timestamp
from driftloop.controller.vocabulary.labels import ANALYSIS, PROMOTED
from driftloop.controller.vocabulary.plan import Adjust, Event
from driftloop.controller.vocabulary.reasons import Reason


@dataclass(frozen=True)
class Pair:
    """Both revisions of a canary."""

    situation: Situation
    stable: Revision
    candidate: Revision

    @property
    def replicas(self) -> int:
        """The service's."""
        return self.situation.observed.spec.replicas

    @property
    def size(self) -> int:
        """The candidate's pods during the analysis."""
        return canary_size(self.replicas)

    @property
    def deadline(self) -> timedelta:
        """How long a pod may take to be Ready."""
        return timedelta(seconds=self.situation.observed.spec.canary.progress_deadline_seconds)

    def keep_stable(self) -> tuple[Adjust, ...]:
        """Stable has all its pods."""
        return scale(self.situation, self.stable, self.replicas)

    def keep(self) -> tuple[Adjust, ...]:
        """Both have the pods that they have during the analysis."""
        return (*self.keep_stable(), *scale(self.situation, self.candidate, self.size))


def start(situation: Situation, stable: Revision, version: Version) -> Rollout:
    """Bring up the candidate beside stable."""
    step = bring_up(situation, version, "Canary")
    return replace(step, actions=(*scale(situation, stable, situation.observed.spec.replicas), *step.actions))


def canary(pair: Pair) -> Rollout:
    """The next step of a candidate that is there."""
    situation, candidate = pair.situation, pair.candidate
    if candidate.promoted or pair.replicas == 0:
        return _exchange(pair)
    if candidate.available and _stable_is_lost(pair):
        # Waiting for a comparison with pods that never come would keep the way out shut.
        return _promote(pair, None, f"{pair.stable.version} has no ready pod to compare with")
    if candidate.available < pair.size:
        return _await_candidate(pair)
    if candidate.analysis_started is None:
        return _begin_analysis(pair)
    known = situation.observed.status.analysis
    if known and not arms_due(situation):
        return _analysing(pair, known)
    analysis = analyse(
        situation.observed.spec.canary, situation.observed.arms, candidate.analysis_started, situation.now
    )
    if analysis.verdict == "RollBack" and pair.stable.available:
        return _roll_back(pair, Failure(Reason.CANARY_WORSE, analysis.message or "", analysis))
    version = situation.observed.version(candidate.version)
    if analysis.verdict == "Promote" and version and version.phase == "Approved":
        return _promote(pair, analysis, analysis.message or "")
    return _analysing(pair, analysis)


def _analysing(pair: Pair, analysis: Analysis) -> Rollout:
    paused = analysis.verdict == "Paused"
    message = f"{pair.candidate.version} beside {pair.stable.version}: {analysis.message}"
    begins = paused and pair.situation.observed.status.phase != "Paused"
    return Rollout(
        "Paused" if paused else "Canary",
        Reason.CANARY_PAUSED if paused else Reason.ANALYSING,
        message,
        pair.keep(),
        (Event("Warning", Reason.CANARY_PAUSED, message),) if begins else (),
        pair.candidate,
        analysis,
        requeue_after=PAUSED_SECONDS if paused else POLL_SECONDS,
    )


def _await_candidate(pair: Pair) -> Rollout:
    stable, candidate = pair.stable, pair.candidate
    message = f"{candidate.version}: {candidate.available} of {pair.size} candidate pods are ready" + because(candidate)
    overdue = _is_overdue(pair)
    if overdue and candidate.unstarted and not candidate.broken:
        return _await_room(pair, message)
    if (overdue or candidate.broken) and (stable.available or not candidate.available):
        reason = Reason.PODS_BROKEN if candidate.broken else Reason.PROGRESS_DEADLINE_EXCEEDED
        return _roll_back(pair, Failure(reason, message))
    return Rollout("Canary", Reason.CANDIDATE_STARTING, message, pair.keep(), candidate=candidate)


def _is_overdue(pair: Pair) -> bool:
    """Whether a pod of the candidate has been missing for longer than the deadline.

    A pod that goes away during the analysis has as long to come back as a new one has to come, and so has one that came
    to be wanted just now: until the Deployment's controller has looked, its conditions are about fewer pods.
    """
    candidate = pair.candidate
    since = max(candidate.since, candidate.unavailable_since or candidate.since)
    late = pair.situation.now - since > pair.deadline
    return late and candidate.current and candidate.replicas == pair.size


def _await_room(pair: Pair, message: str) -> Rollout:
    """No engine of the candidate has run: a node, an image, a volume or its model is still missing.

    That says nothing of the version, so it keeps its place beside stable, which has all its pods: scheduler and kubelet
    go on trying, with back-off.
    """
    message = f"{message}. It waits longer than canary.progressDeadlineSeconds for what its pods need to start"
    ready = find(pair.situation.observed.service.get("status", {}).get("conditions") or [], "Ready") or {}
    reported = ready.get("reason") == Reason.PROGRESS_DEADLINE_EXCEEDED
    event = Event("Warning", Reason.PROGRESS_DEADLINE_EXCEEDED, shorten(message, 1000))
    return Rollout(
        "Canary",
        Reason.PROGRESS_DEADLINE_EXCEEDED,
        message,
        pair.keep(),
        () if reported else (event,),
        pair.candidate,
        requeue_after=POLL_SECONDS * 6,
    )


def _begin_analysis(pair: Pair) -> Rollout:
    stable, candidate = pair.stable, pair.candidate
    if stable.available == 0:
        message = f"{candidate.version} is ready and waits for a pod of {stable.version} to be compared with"
        return Rollout("Canary", Reason.STABLE_NOT_READY, message + because(stable), pair.keep(), candidate=candidate)
    begun = replace(
        unchanged(pair.situation, candidate),
        replicas=pair.size,
        annotations={ANALYSIS: timestamp(pair.situation.now)},
    )
    arms = f"{candidate.available} pods with {stable.available}"
    message = f"compares {candidate.version} with {stable.version}: {arms}"
    event = Event("Normal", Reason.ANALYSIS_STARTED, message)
    return Rollout("Canary", Reason.ANALYSING, message, (*pair.keep_stable(), begun), (event,), candidate)


def _promote(pair: Pair, analysis: Analysis | None, why: str) -> Rollout:
    candidate = pair.candidate
    passed = replace(
        unchanged(pair.situation, candidate),
        replicas=pair.replicas,
        annotations={PROMOTED: timestamp(pair.situation.now)},
    )
    message = f"{candidate.version} passed: {why}"
    event = Event("Normal", Reason.CANARY_PASSED, shorten(message, 1000))
    actions = (*pair.keep_stable(), passed)
    return Rollout("Canary", Reason.PROMOTING, message, actions, (event,), candidate, analysis)


def _exchange(pair: Pair) -> Rollout:
    """Pod by pod, and at the end the roles."""
    situation, stable, candidate = pair.situation, pair.stable, pair.candidate
    analysis = situation.observed.status.analysis
    if candidate.available >= pair.replicas:
        message = f"{candidate.version} (revision {candidate.revision}) serves instead of {stable.version}"
        # The new stable first: between the two writes the later one counts.
        roles = (take_over(situation, candidate), retire(situation, stable))
        event = Event("Normal", Reason.PROMOTED, message)
        return Rollout("Serving", Reason.SERVING, message, roles, (event,), analysis=analysis)
    left = pair.replicas - candidate.available
    message = f"{candidate.version} takes over: {candidate.available} of {pair.replicas} pods are ready"
    actions = (*scale(situation, candidate, pair.replicas), *scale(situation, stable, left))
    return Rollout(
        "Canary", Reason.PROMOTING, message + because(candidate), actions, candidate=candidate, analysis=analysis
    )


def _roll_back(pair: Pair, failure: Failure) -> Rollout:
    """A policy that refuses the one Deployment, for the sake of its image perhaps, is nothing to the other."""
    return replace(roll_back(pair.situation, pair.candidate, failure), beside=pair.keep_stable())


def _stable_is_lost(pair: Pair) -> bool:
    """Stable has had no ready pod for as long as a candidate may take to get one."""
    since = pair.stable.unavailable_since
    return pair.stable.available == 0 and since is not None and pair.situation.now - since > pair.deadline
