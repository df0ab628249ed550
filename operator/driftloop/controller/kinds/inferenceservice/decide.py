"""The decision on an InferenceService: children, rollout, drift, retraining, and the status. Pure."""

from datetime import datetime
from typing import assert_never

from driftloop.api.base import Condition
from driftloop.api.inferenceservice import DriftStatus, InferenceServiceStatus, RevisionStatus, ServingPlan
from driftloop.controller.kinds.groups import keep_together
from driftloop.controller.kinds.inferenceservice.children import (
    first_children,
    keys_secret,
    other_children,
    routing,
    url,
)
from driftloop.controller.kinds.inferenceservice.drift import CHECK_SECONDS, check_drift
from driftloop.controller.kinds.inferenceservice.gateway import route_state
from driftloop.controller.kinds.inferenceservice.observed import Observed, Revision
from driftloop.controller.kinds.inferenceservice.proposal import proposal, proposed
from driftloop.controller.kinds.inferenceservice.retraining.obstacles import Decision
from driftloop.controller.kinds.inferenceservice.retraining.step import retrain
from driftloop.controller.kinds.inferenceservice.rollout.moves import Rollout
from driftloop.controller.kinds.inferenceservice.rollout.step import next_step
from driftloop.controller.kinds.inferenceservice.rollout.steps import weight_in_effect
from driftloop.controller.kinds.inferenceservice.situation import Situation, situation_of
from driftloop.controller.kinds.serving_memory import DoesNotFit
from driftloop.controller.pods.serving import SERVE
from driftloop.controller.vocabulary.conditions import condition, merge, ready, timestamp
from driftloop.controller.vocabulary.labels import SERVICE, STAGE
from driftloop.controller.vocabulary.plan import Action, Create, Group, Obj, Plan, Settings, independent
from driftloop.controller.vocabulary.reasons import Reason


def decide(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Plan the next step of the service."""
    situation = situation_of(observed, settings, now)
    rollout = next_step(situation)
    drift, drift_events = check_drift(situation)
    retraining = retrain(situation)
    status = _status(situation, rollout, drift, retraining)
    kept = keep_together((group for revision in observed.revisions for group in revision.groups), now)
    waits = [rollout.requeue_after, retraining.requeue_after, kept.requeue_after, CHECK_SECONDS if drift else None]
    # The first pods are created only after their NetworkPolicy and Service. Later these two are independent of the
    # rollout: if one of them is refused, a canary must still be rolled back.
    # The same goes for a hidden revision, whose pods the Service must not select.
    only = situation.stable.revision if rollout.hides and situation.stable else situation.only
    children = first_children(observed, settings, only)
    first, beside = ((), children) if observed.revisions and not rollout.hides else (children, ())
    routes = routing(observed, settings, weight_in_effect(rollout.candidate), _canary_revision(situation, rollout))
    return Plan(
        actions=(*first, *rollout.actions),
        beside=(
            *independent(
                (
                    *routes,
                    *beside,
                    *other_children(observed, settings, only, _in_shadow(situation)),
                    *_restore_keys(observed),
                    *rollout.beside,
                )
            ),
            *kept.groups,
            Group((), ("drift",), events=drift_events),
            Group(retraining.actions, ("retraining",), _status_if_refused(retraining), retraining.events),
        ),
        status=status.dump(),
        events=(*rollout.events, *proposed(situation, status.proposal)),
        requeue_after=min((wait for wait in waits if wait is not None), default=None),
    )


def _status(
    situation: Situation, rollout: Rollout, drift: DriftStatus | None, retraining: Decision
) -> InferenceServiceStatus:
    observed = situation.observed
    generation = observed.service["metadata"].get("generation")
    known = observed.service.get("status", {}).get("conditions") or []
    conditions = merge(known, _conditions(situation, rollout, retraining), generation, situation.now)
    return InferenceServiceStatus(
        observed_generation=generation,
        phase=rollout.phase,
        conditions=[Condition.model_validate(entry) for entry in conditions],
        url=url(observed, situation.stable, situation.settings),
        stable=_revision_status(situation, situation.stable),
        candidate=_revision_status(situation, rollout.candidate),
        sleep=rollout.sleep,
        waiting=rollout.waiting,
        proposal=proposal(situation),
        command=rollout.command,
        traffic=traffic(situation.stable, rollout.candidate),
        analysis=rollout.analysis or observed.status.analysis,
        shadow=rollout.shadow or observed.status.shadow,
        failed_revisions=list(rollout.failed),
        drift=drift,
        retraining=retraining.status,
        replicas=sum(revision.pods for revision in observed.revisions if revision.role != "failed"),
        selector=f"{SERVICE}={observed.name},{STAGE}={SERVE}",
    )


def _status_if_refused(retraining: Decision) -> Obj:
    """The status to write if the retraining's job is refused."""
    return {"retraining": retraining.refused.dump()} if retraining.refused else {}


def _in_shadow(situation: Situation) -> str | None:
    """The hidden candidate that takes copies of requests."""
    candidate = situation.candidate
    return candidate.revision if candidate and candidate.in_shadow and candidate.shadow_started else None


def _canary_revision(situation: Situation, rollout: Rollout) -> str | None:
    """The revision that the candidate's Service selects: stable, unless the candidate can take its requests.

    So a Gateway that still divides the requests as before has ready pods on both sides.
    """
    candidate, stable = rollout.candidate, situation.stable
    if candidate and candidate.weight is not None and candidate.available:
        return candidate.revision
    return stable.revision if stable else None


def traffic(stable: Revision | None, candidate: Revision | None) -> str | None:
    """Shares of the traffic in percent, as stable/candidate. None without pods.

    They are those of their Ready pods, or with a Gateway those of their weights.
    """
    if candidate and candidate.weight is not None:
        weight = weight_in_effect(candidate)
        return f"{100 - weight}/{weight}"
    stable_pods, candidate_pods = (stable.available if stable else 0), (candidate.available if candidate else 0)
    if candidate and candidate.hidden:
        candidate_pods = 0
    if stable_pods + candidate_pods == 0:
        return None
    share = round(100 * stable_pods / (stable_pods + candidate_pods))
    return f"{share}/{100 - share}"


def _revision_status(situation: Situation, revision: Revision | None) -> RevisionStatus | None:
    if revision is None:
        return None
    return RevisionStatus(
        revision=revision.revision,
        version=revision.version,
        digest=revision.digest or None,
        engine=revision.engine,
        plan=_serving_plan(situation, revision),
        cold_start=revision.cold_start,
        replicas=revision.replicas,
        ready_replicas=revision.available,
        since=timestamp(revision.since),
    )


def _serving_plan(situation: Situation, revision: Revision) -> ServingPlan | None:
    """The plan of a revision of today's spec: for another spec it is not known any more."""
    if situation.revisions.get(revision.version) != revision.revision:
        return None
    match situation.memory[revision.version]:
        case ServingPlan() as plan:
            return plan
        case DoesNotFit() | None:
            return None
        case never:
            assert_never(never)


def _conditions(situation: Situation, rollout: Rollout, retraining: Decision) -> list[Condition]:
    """Ready: users are served. Reconciling: the operator works on it. Stalled: a person must act.

    RouteAccepted: only with a Gateway, whether that carries the requests. If it does not, users are not served.
    """
    stable, replicas = situation.stable, situation.observed.spec.replicas
    serving = stable is not None and stable.available >= min(replicas, stable.replicas) and rollout.phase != "Degraded"
    route = route_state(situation.observed, situation.settings)
    reason, message = rollout.reason, rollout.message
    if serving and route and route.status != "True":
        serving, reason, message = False, route.reason, route.message
    entries = ready(reason, message) if serving else [condition("Ready", "False", reason, message)]
    if route:
        entries.append(condition("RouteAccepted", route.status, route.reason, route.message))
    if rollout.blocked:
        entries.append(condition("Stalled", "True", rollout.reason, rollout.message))
    elif route and route.is_stuck:
        entries.append(condition("Stalled", "True", route.reason, route.message))
    elif retraining.blocked and retraining.status:
        entries.append(condition("Stalled", "True", Reason.RETRAINING_BLOCKED, retraining.status.message or ""))
    elif rollout.phase in ("Pending", "Deploying", "Shadow", "Canary", "Paused") or not serving:
        entries.append(condition("Reconciling", "True", reason, message))
    return entries


def _restore_keys(observed: Observed) -> tuple[Action, ...]:
    """Create the Secret again if a pod can't find it. With the new key, previous response ids are no longer valid."""
    lost = any("CreateContainerConfigError" in revision.problem for revision in observed.revisions)
    return (Create(keys_secret(observed)),) if lost else ()
