"""A candidate beside stable: wait for its pods, compare both, then replace stable pod by pod, or roll back. Pure.

With `promotion: manual` a candidate that passed waits for a person's command (`orders`).
"""

from dataclasses import replace
from datetime import datetime
from typing import assert_never

from driftloop.api.inferenceservice import Analysis
from driftloop.controller.kinds.inferenceservice.analysis import analyse
from driftloop.controller.kinds.inferenceservice.children import selects_all
from driftloop.controller.kinds.inferenceservice.observed import Revision, Version
from driftloop.controller.kinds.inferenceservice.questions import PAUSED_SECONDS, arms_due
from driftloop.controller.kinds.inferenceservice.rollout.moves import (
    POLL_SECONDS,
    RELEASED,
    Failure,
    Rollout,
    Success,
    bring_up,
    make_stable,
    problem_suffix,
    retire,
    roll_back,
    scale,
    unchanged,
)
from driftloop.controller.kinds.inferenceservice.rollout.pair import Pair, keep_comparing
from driftloop.controller.kinds.inferenceservice.rollout.shadow import shadow
from driftloop.controller.kinds.inferenceservice.rollout.steps import in_words, limits_of, part_of
from driftloop.controller.kinds.inferenceservice.rollout.weighted import begin_step, leave_gateway, wait_for_gateway
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import find, shorten, timestamp
from driftloop.controller.vocabulary.labels import ANALYSIS, PROMOTED, ROLLOUT
from driftloop.controller.vocabulary.plan import Event
from driftloop.controller.vocabulary.reasons import Reason


def start(situation: Situation, stable: Revision, version: Version) -> Rollout:
    """Start the candidate beside stable, which follows the spec even if the candidate's objects are refused."""
    spec = situation.observed.spec
    step = bring_up(situation, version, "Shadow" if spec.canary.shadow and spec.replicas else "Canary")
    return replace(step, beside=scale(situation, stable, spec.replicas))


def canary(pair: Pair) -> Rollout:
    """The next step of a candidate that exists."""
    situation, candidate = pair.situation, pair.candidate
    if candidate.promoted:
        return _exchange(pair)
    if candidate.weight is not None and situation.observed.spec.gateway is None:
        return leave_gateway(pair)
    if pair.replicas == 0:
        return _await_replicas(pair)
    if candidate.available and _stable_is_lost(pair) and not _is_worse(pair):
        # Stable's pods do not come back, so waiting for a comparison would block the rollout.
        return _take_over(pair, None, f"{pair.stable.version} has no ready pod to compare with")
    if candidate.available < pair.size:
        return _await_candidate(pair)
    if candidate.in_shadow:
        return shadow(pair)
    if candidate.analysis_started is None:
        return _begin_analysis(pair)
    known = situation.observed.status.analysis
    return _judged(pair, known if known and not arms_due(situation) else analysed(pair, candidate.analysis_started))


def analysed(pair: Pair, started: datetime) -> Analysis:
    """The analysis of the figures that were read in this reconcile."""
    observed, canary = pair.situation.observed, pair.situation.observed.spec.canary
    part = part_of(canary, pair.candidate)
    analysis = analyse(limits_of(canary, part), observed.arms, started, pair.situation.now, part)
    step = in_words(pair.candidate, part) if pair.candidate.weight is not None else None
    return analysis.model_copy(update={"step": step})


def _judged(pair: Pair, analysis: Analysis) -> Rollout:
    """Act on the verdict of the analysis."""
    observed = pair.situation.observed
    if analysis.verdict == "RollBack" and pair.stable.available:
        return roll_back_beside(pair, Failure(Reason.CANARY_WORSE, analysis.message or "", analysis))
    if analysis.verdict in ("NextStep", "Promote") and (wait := wait_for_gateway(pair, analysis)):
        return wait
    if analysis.verdict == "NextStep":
        return begin_step(pair, analysis)
    version = observed.version(pair.candidate.version)
    if analysis.verdict == "Promote" and version and version.phase == "Approved":
        return _take_over(pair, analysis, analysis.message or "")
    return _analysing(pair, analysis)


def _take_over(pair: Pair, analysis: Analysis | None, why: str) -> Rollout:
    """Promote the candidate, or wait for a person's command to do so."""
    match pair.situation.observed.spec.promotion:
        case "automatic":
            event = Event("Normal", Reason.CANARY_PASSED, shorten(f"{pair.candidate.version} passed: {why}", 1000))
            return promote(pair, Success(event, analysis))
        case "manual":
            return _await_person(pair, analysis, why)
        case never:
            assert_never(never)


def _await_person(pair: Pair, analysis: Analysis | None, why: str) -> Rollout:
    """Wait for a person's command. Until then the analysis goes on, so that a candidate may still be rolled back."""
    candidate, name = pair.candidate, pair.situation.observed.name
    command = f"kubectl annotate dlsvc {name} --overwrite {ROLLOUT}='promote {candidate.revision} by NAME'"
    message = f"Paused: {candidate.version} passed, waits for promote ({command}): {why}"
    return Rollout(
        "Paused",
        Reason.AWAITING_PROMOTION,
        message,
        pair.keep(),
        once(pair, Event("Normal", Reason.AWAITING_PROMOTION, shorten(message, 1000))),
        candidate,
        analysis,
        requeue_after=PAUSED_SECONDS,
    )


def _analysing(pair: Pair, analysis: Analysis) -> Rollout:
    reason = Reason.CANARY_PAUSED if analysis.verdict == "Paused" else Reason.ANALYSING
    at = f", {analysis.step}" if analysis.step else ""
    message = f"{pair.candidate.version} beside {pair.stable.version}{at}: {analysis.message}"
    return replace(keep_comparing(pair, reason, message), analysis=analysis)


def _await_candidate(pair: Pair) -> Rollout:
    stable, candidate = pair.stable, pair.candidate
    message = f"{candidate.version}: {candidate.available} of {pair.size} candidate pods are ready"
    message += problem_suffix(candidate)
    overdue = _is_overdue(pair)
    if overdue and candidate.unstarted and not candidate.broken:
        return _await_room(pair, message)
    if (overdue or candidate.broken) and (stable.available or not candidate.available):
        reason = Reason.PODS_BROKEN if candidate.broken else Reason.PROGRESS_DEADLINE_EXCEEDED
        return roll_back_beside(pair, Failure(reason, message))
    return Rollout(pair.phase, Reason.CANDIDATE_STARTING, message, pair.keep(), candidate=candidate)


def _await_replicas(pair: Pair) -> Rollout:
    """Wait for requests to compare: without pods there are none, and an analysis that has begun is not over."""
    message = f"{pair.candidate.version} waits beside {pair.stable.version}: spec.replicas is 0"
    return Rollout(
        "Canary", Reason.CANDIDATE_STARTING, message, pair.keep(), candidate=pair.candidate, requeue_after=None
    )


def _is_overdue(pair: Pair) -> bool:
    """Whether a pod of the candidate has been missing for longer than the deadline.

    A pod that is lost during the analysis, or missing when a person ends a pause, has the same time to come. After a
    change of the number of pods, the candidate is overdue only once the Deployment controller has seen the new number:
    until then the conditions of the Deployment are about the previous number.
    """
    candidate = pair.candidate
    moments = (candidate.since, candidate.unavailable_since, candidate.resumed)
    since = max(moment for moment in moments if moment is not None)
    late = pair.situation.now - since > pair.deadline
    return late and candidate.current and candidate.replicas == pair.size


def _await_room(pair: Pair, message: str) -> Rollout:
    """Wait for a candidate whose engine has never run: a node, an image, a volume or the model is still missing.

    That is not a fault of the version, so it is not rolled back. Stable keeps all its pods, and scheduler and kubelet
    retry with back-off.
    """
    message = f"{message}. Its pods could not start within canary.progressDeadlineSeconds and keep waiting"
    event = Event("Warning", Reason.PROGRESS_DEADLINE_EXCEEDED, shorten(message, 1000))
    return Rollout(
        "Canary",
        Reason.PROGRESS_DEADLINE_EXCEEDED,
        message,
        pair.keep(),
        once(pair, event),
        pair.candidate,
        requeue_after=POLL_SECONDS * 6,
    )


def once(pair: Pair, event: Event) -> tuple[Event, ...]:
    """The Event, unless its reason is that of the service's condition Ready already."""
    ready = find(pair.situation.observed.service.get("status", {}).get("conditions") or [], "Ready") or {}
    return () if ready.get("reason") == event.reason else (event,)


def _begin_analysis(pair: Pair) -> Rollout:
    stable, candidate = pair.stable, pair.candidate
    if stable.available == 0:
        message = f"{candidate.version} is ready and waits for a ready pod of {stable.version} for the comparison"
        return Rollout(
            "Canary", Reason.STABLE_NOT_READY, message + problem_suffix(stable), pair.keep(), candidate=candidate
        )
    if candidate.weight is not None:
        return begin_step(pair)
    begun = replace(
        unchanged(pair.situation, candidate),
        replicas=pair.size,
        annotations={ANALYSIS: timestamp(pair.situation.now)},
    )
    pods = f"{candidate.available} candidate pods, {stable.available} stable pods"
    message = f"comparing {candidate.version} with {stable.version}: {pods}"
    event = Event("Normal", Reason.ANALYSIS_STARTED, message)
    return Rollout("Canary", Reason.ANALYSING, message, (*pair.keep_stable(), begun), (event,), candidate)


def promote(pair: Pair, success: Success) -> Rollout:
    """Let the candidate take over: it gets all its pods, then stable gives up its own."""
    promoted = replace(
        unchanged(pair.situation, pair.candidate),
        replicas=pair.replicas,
        annotations={
            PROMOTED: timestamp(pair.situation.now),
            **(RELEASED if pair.candidate.hidden else {}),
            **success.notes,
        },
    )
    actions, event = (*pair.keep_stable(), promoted), success.event
    return Rollout("Canary", Reason.PROMOTING, event.message, actions, (event,), pair.candidate, success.analysis)


def _exchange(pair: Pair) -> Rollout:
    """Replace stable's pods one by one, and change the roles at the end."""
    situation, stable, candidate = pair.situation, pair.stable, pair.candidate
    analysis = situation.observed.status.analysis
    if not selects_all(situation.observed):
        message = f"{candidate.version} waits until the Service selects its pods"
        return Rollout("Canary", Reason.PROMOTING, message, pair.keep_stable(), candidate=candidate, analysis=analysis)
    if candidate.available >= pair.replicas:
        message = f"{candidate.version} (revision {candidate.revision}) serves instead of {stable.version}"
        # The new stable is written first: between the two writes both are stable, and the later one counts.
        roles = (make_stable(situation, candidate), retire(situation, stable))
        event = Event("Normal", Reason.PROMOTED, message)
        return Rollout("Serving", Reason.SERVING, message, roles, (event,), analysis=analysis)
    remaining = pair.replicas - candidate.available
    message = f"{candidate.version} takes over: {candidate.available} of {pair.replicas} pods are ready"
    actions = (*scale(situation, candidate, pair.replicas), *scale(situation, stable, remaining))
    return Rollout(
        "Canary", Reason.PROMOTING, message + problem_suffix(candidate), actions, candidate=candidate, analysis=analysis
    )


def roll_back_beside(pair: Pair, failure: Failure) -> Rollout:
    """Roll back and keep stable, independently: an admission policy may refuse a write to one of the Deployments."""
    return replace(roll_back(pair.situation, pair.candidate, failure), beside=pair.keep_stable())


def _is_worse(pair: Pair) -> bool:
    """Whether the requests so far show that the candidate is worse. Without metrics nothing is shown."""
    observed, started = pair.situation.observed, pair.candidate.analysis_started
    if started is None or observed.arms is None:
        return False
    return analysed(pair, started).verdict == "RollBack"


def _stable_is_lost(pair: Pair) -> bool:
    """Whether stable has had no ready pod for longer than a candidate may take to get one."""
    since = pair.stable.unavailable_since
    return pair.stable.available == 0 and since is not None and pair.situation.now - since > pair.deadline
