"""From the revision that serves to the one that should: canary, promotion, rollback. Pure.

One Service selects the pods of every revision, so each arm's share of the traffic is its share of Ready pods.

- No traffic without a stable revision: the first one becomes stable as soon as a pod is Ready.
- The candidate comes beside stable, which keeps all its pods until the analysis is passed.
- Then stable gives up a pod for each candidate pod that is Ready: in all there never are fewer than spec.replicas,
  and a cluster with room for one pod more can roll out.
- When all candidate pods are Ready the roles change, and the old revision's pods drain.
- A candidate that is worse, or not Ready in time, is scaled to 0 and kept as the memory of its failure; one whose
  engine the cluster has not started yet waits.

Roles and times lie on the Deployments, the status only repeats them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from driftloop.api.inferenceservice import Analysis
from driftloop.controller.kinds.inferenceservice.analysis import analyse
from driftloop.controller.kinds.inferenceservice.children import keys_secret
from driftloop.controller.kinds.inferenceservice.observed import Observed, Revision, Role, Version
from driftloop.controller.kinds.inferenceservice.revision import deployment
from driftloop.controller.kinds.inferenceservice.selection import Choice, choose, failed_revisions
from driftloop.controller.vocabulary.conditions import find, parse_timestamp, shorten, timestamp
from driftloop.controller.vocabulary.labels import ANALYSIS, FAILED, PROMOTED, RETRIED, RETRY, ROLE, SINCE
from driftloop.controller.vocabulary.plan import Action, Adjust, Create, Delete, Event, Settings
from driftloop.controller.vocabulary.reasons import Reason

Phase = Literal["Pending", "Deploying", "Serving", "Canary", "Paused", "Degraded"]
POLL_SECONDS = 5.0  # how often the figures of a canary are looked at
# And those of a paused one. What is asked of Prometheus reaches back to the start of the analysis: for the quietest
# services that is days, at last more than it lets a query have.
PAUSED_SECONDS = 60.0
_MAX_FAILED = 32  # remembered in status


@dataclass(frozen=True)
class Rollout:
    """What to do now, and how the service stands."""

    phase: Phase
    reason: Reason | Literal[""]  # "" is only what a Choice without a reason would pass on
    message: str
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    candidate: Revision | None = None  # only while it is one
    analysis: Analysis | None = None
    failed: tuple[str, ...] = ()  # all that are not tried again
    blocked: bool = False  # the spec asks for what cannot be had
    requeue_after: float | None = None


def roll(observed: Observed, settings: Settings, now: datetime) -> Rollout:
    """The next step."""
    choice = choose(observed)
    step = _step(observed, choice, settings, now)
    return replace(
        step,
        actions=(*step.actions, *_sweep(observed, step)),
        failed=_failed_list(observed, step),
        blocked=step.blocked or choice.blocked,
    )


def figures_due(observed: Observed, now: datetime) -> bool:
    """Whether this look is to be at the figures of both arms."""
    stable, candidate = observed.role("stable"), observed.role("candidate")
    if stable is None or candidate is None or candidate.analysis_started is None or candidate.promoted:
        return False
    known = observed.status.analysis
    if observed.status.phase != "Paused" or known is None or known.looked is None:
        return True
    of_this = known.started == timestamp(candidate.analysis_started)
    return not of_this or now - parse_timestamp(known.looked) >= timedelta(seconds=PAUSED_SECONDS)


def canary_size(replicas: int) -> int:
    """Candidate pods beside `replicas` of stable during the analysis."""
    return min(replicas, max(1, replicas // 2))


def _step(observed: Observed, choice: Choice, settings: Settings, now: datetime) -> Rollout:
    stable, candidate = observed.role("stable"), observed.role("candidate")
    if stable is None:
        return _first(observed, candidate, choice, settings, now)
    if choice.version is None or choice.revision is None or choice.revision == stable.revision:
        return _steady(observed, stable, candidate, choice)
    if candidate and (candidate.revision == choice.revision or not stable.available):
        # A candidate that alone serves users is not given up for the next one.
        return _canary(observed, stable, candidate, observed.version(candidate.version), now)
    if candidate and _is_needed(observed, stable, candidate):
        return _steady(observed, stable, candidate, choice)
    return _start(observed, stable, choice.version, choice.revision, settings, now)


# --- the first revision ----------------------------------------------------------------------------------------------


def _first(
    observed: Observed, candidate: Revision | None, choice: Choice, settings: Settings, now: datetime
) -> Rollout:
    if choice.version is None or choice.revision is None:
        return Rollout("Pending", choice.reason, choice.message, candidate=candidate)
    replicas = observed.spec.replicas
    if candidate is None or candidate.revision != choice.revision:
        return _bring_up(observed, choice.version, choice.revision, replicas, settings, now, "Deploying")
    if candidate.available >= min(1, replicas):
        taken = _take_over(observed, candidate, now)
        message = f"{candidate.version} serves as revision {candidate.revision}"
        return Rollout(
            "Serving",
            Reason.SERVING,
            message,
            (taken,),
            (Event("Normal", Reason.SERVING, message),),
            requeue_after=POLL_SECONDS,
        )
    if candidate.hopeless:
        return _roll_back(observed, candidate, Reason.PODS_BROKEN, candidate.problem)
    late = now - candidate.since > timedelta(seconds=observed.spec.canary.progress_deadline_seconds)
    message = f"{candidate.version}: {candidate.available} of {replicas} pods are ready" + _because(candidate)
    # Nothing else serves, so it goes on trying: its image may come, a node may be added.
    return Rollout(
        "Degraded" if late else "Deploying",
        Reason.PROGRESS_DEADLINE_EXCEEDED if late else Reason.DEPLOYING,
        message,
        _scale(observed, candidate, replicas),
        candidate=candidate,
        blocked=late,
        requeue_after=POLL_SECONDS * (6 if late else 1),
    )


# --- one revision, as wanted -----------------------------------------------------------------------------------------


def _steady(observed: Observed, stable: Revision, candidate: Revision | None, choice: Choice) -> Rollout:
    """Stable is what should serve, or nothing better can be had. A candidate is no longer wanted."""
    replicas = observed.spec.replicas
    actions: tuple[Action, ...] = _scale(observed, stable, replicas)
    short = stable.available < replicas
    if candidate and _is_needed(observed, stable, candidate):
        message = f"returns to {stable.version}: {stable.available} of {replicas} pods are ready"
        return Rollout("Canary", Reason.RETURNING, message, actions, candidate=candidate, requeue_after=POLL_SECONDS)
    events: tuple[Event, ...] = ()
    if candidate:
        actions += (_retire(observed, candidate),)
        message = f"{candidate.version} (revision {candidate.revision}) is no longer wanted"
        events = (Event("Normal", Reason.CANARY_WITHDRAWN, message),)
    message = f"{stable.version} serves: {stable.available} of {replicas} pods are ready"
    if short:
        message += _because(stable)
    if choice.message:
        message += f". {choice.message}"
    phase: Phase = "Degraded" if short and stable.available == 0 else "Serving"
    reason = choice.reason or (Reason.PODS_NOT_READY if short else Reason.SERVING)
    return Rollout(phase, reason, message, actions, events, requeue_after=POLL_SECONDS if short else None)


# --- a canary --------------------------------------------------------------------------------------------------------


def _start(
    observed: Observed, stable: Revision, version: Version, revision: str, settings: Settings, now: datetime
) -> Rollout:
    size = canary_size(observed.spec.replicas)
    step = _bring_up(observed, version, revision, size, settings, now, "Canary")
    return replace(step, actions=(*_scale(observed, stable, observed.spec.replicas), *step.actions))


def _canary(
    observed: Observed, stable: Revision, candidate: Revision, version: Version | None, now: datetime
) -> Rollout:
    replicas = observed.spec.replicas
    if candidate.promoted or replicas == 0:
        return _exchange(observed, stable, candidate, now)
    size = canary_size(replicas)
    keep = (*_scale(observed, stable, replicas), *_scale(observed, candidate, size))
    if candidate.available and _given_up(observed, stable, now):
        # Waiting for a comparison with pods that never come would keep the way out shut.
        return _promote(observed, candidate, keep, None, now, f"{stable.version} has no ready pod to compare with")
    if candidate.available < size:
        return _await_candidate(observed, stable, candidate, keep, now)
    if candidate.analysis_started is None:
        return _begin_analysis(observed, stable, candidate, keep, now)
    if not figures_due(observed, now) and observed.status.analysis:
        return _analysing(observed, stable, candidate, keep, observed.status.analysis)
    found = analyse(observed.spec.canary, observed.arms, candidate.analysis_started, now)
    if found.verdict == "RollBack" and stable.available:
        return _roll_back(observed, candidate, Reason.CANARY_WORSE, found.message or "", found, keep)
    if found.verdict == "Promote" and version and version.phase == "Approved":
        return _promote(observed, candidate, keep, found, now, found.message or "")
    return _analysing(observed, stable, candidate, keep, found)


def _analysing(
    observed: Observed, stable: Revision, candidate: Revision, keep: tuple[Adjust, ...], found: Analysis
) -> Rollout:
    paused = found.verdict == "Paused"
    message = f"{candidate.version} beside {stable.version}: {found.message}"
    events = (Event("Warning", Reason.CANARY_PAUSED, message),) if paused and observed.status.phase != "Paused" else ()
    return Rollout(
        "Paused" if paused else "Canary",
        Reason.CANARY_PAUSED if paused else Reason.ANALYSING,
        message,
        keep,
        events,
        candidate,
        found,
        requeue_after=PAUSED_SECONDS if paused else POLL_SECONDS,
    )


def _await_candidate(
    observed: Observed, stable: Revision, candidate: Revision, keep: tuple[Adjust, ...], now: datetime
) -> Rollout:
    size, deadline = canary_size(observed.spec.replicas), observed.spec.canary.progress_deadline_seconds
    message = f"{candidate.version}: {candidate.available} of {size} candidate pods are ready" + _because(candidate)
    # A pod that goes away during the analysis has as long to come back as a new one has to come, and so has one that
    # came to be wanted just now: until the Deployment's controller has looked, its conditions are about fewer pods.
    since = max(candidate.since, candidate.unavailable_since or candidate.since)
    overdue = now - since > timedelta(seconds=deadline) and candidate.current and candidate.replicas == size
    if overdue and candidate.unstarted and not candidate.hopeless:
        return _await_room(observed, candidate, message, keep)
    if (overdue or candidate.hopeless) and (stable.available or not candidate.available):
        reason = Reason.PODS_BROKEN if candidate.hopeless else Reason.PROGRESS_DEADLINE_EXCEEDED
        return _roll_back(observed, candidate, reason, message, keep=keep)
    return Rollout("Canary", Reason.CANDIDATE_STARTING, message, keep, candidate=candidate, requeue_after=POLL_SECONDS)


def _await_room(observed: Observed, candidate: Revision, message: str, keep: tuple[Adjust, ...]) -> Rollout:
    """No engine of the candidate has run: a node, an image, a volume or its model is still missing.

    That says nothing of the version, so it keeps its place beside stable, which has all its pods: scheduler and kubelet
    go on trying, with back-off.
    """
    message = f"{message}. It waits longer than canary.progressDeadlineSeconds for what its pods need to start"
    known = find(observed.service.get("status", {}).get("conditions") or [], "Ready") or {}
    told = known.get("reason") == Reason.PROGRESS_DEADLINE_EXCEEDED
    events = () if told else (Event("Warning", Reason.PROGRESS_DEADLINE_EXCEEDED, shorten(message, 1000)),)
    return Rollout(
        "Canary",
        Reason.PROGRESS_DEADLINE_EXCEEDED,
        message,
        keep,
        events,
        candidate,
        requeue_after=POLL_SECONDS * 6,
    )


def _begin_analysis(
    observed: Observed, stable: Revision, candidate: Revision, keep: tuple[Adjust, ...], now: datetime
) -> Rollout:
    if stable.available == 0:
        message = f"{candidate.version} is ready and waits for a pod of {stable.version} to be compared with"
        message += _because(stable)
        return Rollout(
            "Canary", Reason.STABLE_NOT_READY, message, keep, candidate=candidate, requeue_after=POLL_SECONDS
        )
    note = _adjust(observed, candidate, canary_size(observed.spec.replicas), notes={ANALYSIS: timestamp(now)})
    scaled = tuple(action for action in keep if action.uid != candidate.uid)
    arms = f"{candidate.available} pods with {stable.available}"
    message = f"compares {candidate.version} with {stable.version}: {arms}"
    event = Event("Normal", Reason.ANALYSIS_STARTED, message)
    return Rollout(
        "Canary", Reason.ANALYSING, message, (*scaled, note), (event,), candidate, requeue_after=POLL_SECONDS
    )


def _promote(
    observed: Observed,
    candidate: Revision,
    keep: tuple[Adjust, ...],
    found: Analysis | None,
    now: datetime,
    why: str,
) -> Rollout:
    notes: dict[str, str | None] = {PROMOTED: timestamp(now)}
    passed = _adjust(observed, candidate, observed.spec.replicas, notes=notes)
    message = f"{candidate.version} passed: {why}"
    event = Event("Normal", Reason.CANARY_PASSED, shorten(message, 1000))
    scaled = tuple(action for action in keep if action.uid != candidate.uid)
    return Rollout(
        "Canary", Reason.PROMOTING, message, (*scaled, passed), (event,), candidate, found, requeue_after=POLL_SECONDS
    )


def _exchange(observed: Observed, stable: Revision, candidate: Revision, now: datetime) -> Rollout:
    """Pod by pod, and at the end the roles."""
    replicas = observed.spec.replicas
    if candidate.available >= replicas:
        message = f"{candidate.version} (revision {candidate.revision}) serves instead of {stable.version}"
        # The new stable first: between the two writes the later one counts.
        actions = (_take_over(observed, candidate, now), _retire(observed, stable))
        event = Event("Normal", Reason.PROMOTED, message)
        return Rollout(
            "Serving",
            Reason.SERVING,
            message,
            actions,
            (event,),
            analysis=observed.status.analysis,
            requeue_after=POLL_SECONDS,
        )
    left = replicas - candidate.available
    message = f"{candidate.version} takes over: {candidate.available} of {replicas} pods are ready"
    message += _because(candidate)
    return Rollout(
        "Canary",
        Reason.PROMOTING,
        message,
        (*_scale(observed, candidate, replicas), *_scale(observed, stable, left)),
        candidate=candidate,
        analysis=observed.status.analysis,
        requeue_after=POLL_SECONDS,
    )


def _roll_back(
    observed: Observed,
    candidate: Revision,
    reason: Reason,
    why: str,
    found: Analysis | None = None,
    keep: tuple[Adjust, ...] = (),
) -> Rollout:
    used_up = observed.annotations.get(RETRY) == candidate.revision
    notes = {FAILED: shorten(f"{reason}: {why}", 1000), ANALYSIS: None, RETRIED: "true" if used_up else None}
    failed = _adjust(observed, candidate, 0, role="failed", notes=notes)
    message = f"{candidate.version} (revision {candidate.revision}) was rolled back: {why}"
    return Rollout(
        "Serving" if observed.role("stable") else "Pending",
        Reason.ROLLED_BACK,
        message,
        (failed, *(action for action in keep if action.uid != candidate.uid)),
        (Event("Warning", Reason.ROLLED_BACK, shorten(message, 1000)),),
        analysis=found,
        failed=(candidate.revision,),
        requeue_after=POLL_SECONDS,
    )


# --- parts -----------------------------------------------------------------------------------------------------------


def _bring_up(
    observed: Observed,
    version: Version,
    revision: str,
    replicas: int,
    settings: Settings,
    now: datetime,
    phase: Phase,
) -> Rollout:
    """Create the revision's Deployment, or make the one that is there the candidate again."""
    known = next((r for r in observed.revisions if r.revision == revision), None)
    actions: tuple[Action, ...]
    if known is None:
        body = deployment(observed, version, replicas, settings, now)
        actions = (Create(keys_secret(observed)), Create(body))
    else:
        afresh = {SINCE: timestamp(now), FAILED: None, ANALYSIS: None, PROMOTED: None, RETRIED: None}
        actions = (_adjust(observed, known, replicas, role="candidate", notes=afresh),)
    message = f"brings up {version.name} as revision {revision}, {replicas} pods"
    event = Event("Normal", Reason.CANDIDATE_CHOSEN, message)
    reason = Reason.CANDIDATE_STARTING if phase == "Canary" else Reason.DEPLOYING
    return Rollout(phase, reason, message, actions, (event,), candidate=known, requeue_after=POLL_SECONDS)


def _sweep(observed: Observed, step: Rollout) -> tuple[Action, ...]:
    """What is left of other revisions: no pods, and in the end no Deployment, except as the memory of a failure."""
    kept = {revision.uid for revision in (observed.role("stable"), step.candidate) if revision}
    kept |= {action.uid for action in step.actions if isinstance(action, Adjust)}
    return tuple(
        action for revision in observed.revisions if revision.uid not in kept for action in _clear(observed, revision)
    )


def _clear(observed: Observed, revision: Revision) -> tuple[Action, ...]:
    # Another candidate took its place, or a promotion was cut short between its two writes.
    if revision.role in ("candidate", "stable"):
        return (_retire(observed, revision),)
    if revision.replicas > 0:
        return _scale(observed, revision, 0)
    if revision.pods == 0 and (revision.role == "retired" or _forgotten(observed, revision)):
        return (Delete("apps/v1", "Deployment", observed.namespace, revision.name, revision.uid),)
    if revision.retried and observed.annotations.get(RETRY) != revision.revision:
        return (_adjust(observed, revision, notes={RETRIED: None}),)
    return ()


def _forgotten(observed: Observed, revision: Revision) -> bool:
    """A failure whose version is gone, or older than what serves: it will not be chosen any more."""
    version, stable = observed.version(revision.version), observed.role("stable")
    serving = observed.version(stable.version) if stable else None
    return version is None or (serving is not None and version.age_key < serving.age_key)


def _failed_list(observed: Observed, step: Rollout) -> tuple[str, ...]:
    """Those failed before in their old order, new ones at the end; without what is being tried again."""
    remaining = failed_revisions(observed)
    known = [name for name in observed.status.failed_revisions if name in remaining]
    new = [*sorted(remaining.difference(known)), *(name for name in step.failed if name not in remaining)]
    return tuple([*known, *new][-_MAX_FAILED:])


def _take_over(observed: Observed, candidate: Revision, now: datetime) -> Adjust:
    notes = {SINCE: timestamp(now), ANALYSIS: None, PROMOTED: None, FAILED: None}
    return _adjust(observed, candidate, observed.spec.replicas, role="stable", notes=notes)


def _retire(observed: Observed, revision: Revision) -> Adjust:
    """Its pods end by draining; the Deployment stays until they are gone."""
    return _adjust(observed, revision, 0, role="retired", notes={ANALYSIS: None, PROMOTED: None})


def _scale(observed: Observed, revision: Revision, replicas: int) -> tuple[Adjust, ...]:
    return (_adjust(observed, revision, replicas),) if revision.replicas != replicas else ()


def _adjust(
    observed: Observed,
    revision: Revision,
    replicas: int | None = None,
    role: Role | None = None,
    notes: Mapping[str, str | None] | None = None,
) -> Adjust:
    labels: dict[str, str | None] = {ROLE: role} if role else {}
    name, uid, decided_on = revision.name, revision.uid, revision.resource_version
    return Adjust(observed.namespace, name, uid, replicas, labels, dict(notes or {}), decided_on)


def _because(revision: Revision) -> str:
    return f": {revision.problem}" if revision.problem else ""


def _is_needed(observed: Observed, stable: Revision, candidate: Revision) -> bool:
    """Whether users would miss the candidate: stable gave up pods for it and hasn't got them back, or has none."""
    short = stable.available < (observed.spec.replicas if candidate.promoted else min(1, observed.spec.replicas))
    return candidate.available > 0 and short


def _given_up(observed: Observed, stable: Revision, now: datetime) -> bool:
    """Stable has had no ready pod for as long as a candidate may take to get one."""
    since = stable.unavailable_since
    deadline = timedelta(seconds=observed.spec.canary.progress_deadline_seconds)
    return stable.available == 0 and since is not None and now - since > deadline
