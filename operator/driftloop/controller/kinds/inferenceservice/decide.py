"""The InferenceService's decider: children, rollout, drift, retraining, and the status that tells of them. Pure."""

from datetime import datetime

from driftloop.api.base import Condition
from driftloop.api.inferenceservice import InferenceServiceStatus, RevisionStatus
from driftloop.controller.kinds.inferenceservice.children import around, entrance_of, keys_secret, url
from driftloop.controller.kinds.inferenceservice.drift import LOOK_SECONDS, look
from driftloop.controller.kinds.inferenceservice.observed import Observed, Revision
from driftloop.controller.kinds.inferenceservice.retraining.obstacles import Decision
from driftloop.controller.kinds.inferenceservice.retraining.step import retrain
from driftloop.controller.kinds.inferenceservice.rollout.moves import Rollout
from driftloop.controller.kinds.inferenceservice.rollout.step import roll
from driftloop.controller.kinds.inferenceservice.situation import Situation, situate
from driftloop.controller.pods.serving import SERVE
from driftloop.controller.vocabulary.conditions import condition, merge, ready, timestamp
from driftloop.controller.vocabulary.labels import SERVICE, STAGE
from driftloop.controller.vocabulary.plan import Action, Create, Group, Obj, Plan, Settings, independent
from driftloop.controller.vocabulary.reasons import Reason


def decide(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """What to do about one InferenceService."""
    situation = situate(observed, settings, now)
    rollout = roll(situation)
    drift, drift_events = look(situation)
    retraining = retrain(situation)
    status = InferenceServiceStatus(
        observed_generation=observed.service["metadata"].get("generation"),
        phase=rollout.phase,
        conditions=[
            Condition.model_validate(entry)
            for entry in merge(
                observed.service.get("status", {}).get("conditions") or [],
                _conditions(situation, rollout, retraining),
                observed.service["metadata"].get("generation"),
                now,
            )
        ],
        url=url(observed, settings),
        stable=_arm(situation.stable),
        candidate=_arm(rollout.candidate),
        traffic=traffic(situation.stable, rollout.candidate),
        analysis=rollout.analysis or observed.status.analysis,
        failed_revisions=list(rollout.failed),
        drift=drift,
        retraining=retraining.status,
        replicas=sum(revision.pods for revision in observed.revisions if revision.role != "failed"),
        selector=f"{SERVICE}={observed.name},{STAGE}={SERVE}",
    )
    waits = [rollout.requeue_after, retraining.requeue_after, LOOK_SECONDS if drift else None]
    # Before the first pods come their policy and the Service that users reach them by; from then on one of these that
    # is refused must keep no canary from being rolled back.
    entrance = entrance_of(observed, settings)
    first, beside = ((), entrance) if observed.revisions else (entrance, ())
    return Plan(
        actions=(*first, *rollout.actions),
        beside=(
            *independent((*beside, *around(observed, settings), *_lost_keys(observed), *rollout.beside)),
            Group((), ("drift",), events=drift_events),
            Group(retraining.actions, ("retraining",), _undone(retraining), retraining.events),
        ),
        status=status.dump(),
        events=rollout.events,
        requeue_after=min((wait for wait in waits if wait is not None), default=None),
    )


def _undone(retraining: Decision) -> Obj:
    """The status when the retraining's job is refused."""
    return {"retraining": retraining.refused.dump()} if retraining.refused else {}


def traffic(stable: Revision | None, candidate: Revision | None) -> str | None:
    """Percent of stable/candidate, by their Ready pods; None when there are none."""
    kept, tried = (stable.available if stable else 0), (candidate.available if candidate else 0)
    if kept + tried == 0:
        return None
    share = round(100 * kept / (kept + tried))
    return f"{share}/{100 - share}"


def _arm(revision: Revision | None) -> RevisionStatus | None:
    if revision is None:
        return None
    return RevisionStatus(
        revision=revision.revision,
        version=revision.version,
        digest=revision.digest or None,
        replicas=revision.replicas,
        ready_replicas=revision.available,
        since=timestamp(revision.since),
    )


def _conditions(situation: Situation, rollout: Rollout, retraining: Decision) -> list[Condition]:
    """Ready says whether users are served; Reconciling that something moves; Stalled that somebody must act."""
    stable, wanted = situation.stable, situation.observed.spec.replicas
    serving = stable is not None and stable.available >= min(wanted, stable.replicas) and rollout.phase != "Degraded"
    found = (
        ready(rollout.reason, rollout.message)
        if serving
        else [condition("Ready", "False", rollout.reason, rollout.message)]
    )
    if rollout.blocked:
        found.append(condition("Stalled", "True", rollout.reason, rollout.message))
    elif retraining.blocked and retraining.status:
        found.append(condition("Stalled", "True", Reason.RETRAINING_BLOCKED, retraining.status.message or ""))
    elif rollout.phase in ("Pending", "Deploying", "Canary", "Paused") or not serving:
        found.append(condition("Reconciling", "True", rollout.reason, rollout.message))
    return found


def _lost_keys(observed: Observed) -> tuple[Action, ...]:
    """A pod that lacks its Secret: somebody deleted it. New keys end the validity of response ids given before."""
    lost = any("CreateContainerConfigError" in revision.problem for revision in observed.revisions)
    return (Create(keys_secret(observed)),) if lost else ()
