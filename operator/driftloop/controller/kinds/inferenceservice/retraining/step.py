"""Start a retraining, or report what prevents it. Pure."""

from dataclasses import replace
from datetime import datetime

from driftloop.api.inferenceservice import RetrainingStatus
from driftloop.controller.kinds.inferenceservice.observed import Job, Observed
from driftloop.controller.kinds.inferenceservice.retraining.forgetting import forgetting
from driftloop.controller.kinds.inferenceservice.retraining.history import (
    Basis,
    History,
    basis_of,
    history_of,
    proposal,
)
from driftloop.controller.kinds.inferenceservice.retraining.job import finetune_job
from driftloop.controller.kinds.inferenceservice.retraining.obstacles import (
    POLL_SECONDS,
    Case,
    Decision,
    obstacle,
    waiting,
)
from driftloop.controller.kinds.inferenceservice.retraining.triggers import RetrainingTrigger, trigger_of
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import CHILDREN_REFUSED, parse_timestamp, timestamp
from driftloop.controller.vocabulary.plan import Create, Event
from driftloop.controller.vocabulary.reasons import Reason

_MAX_HANDLED = 64  # answered alerts in the status


def retrain(situation: Situation) -> Decision:
    """Start a retraining, or report what prevents it."""
    retraining = situation.observed.spec.retraining
    if retraining is None:
        return Decision(None)
    return _with_warning(_decision(situation), forgetting(retraining.job_template.spec), situation.observed)


def _decision(situation: Situation) -> Decision:
    basis = basis_of(situation)
    if basis is None:
        return Decision(RetrainingStatus(state="Idle", message="waiting for a stable version"))
    history = history_of(basis)
    trigger = trigger_of(basis, history)
    status = _status(basis, history, trigger)
    if history.in_flight:
        return _running(basis, status, history.in_flight[0])
    if trigger is None:
        return Decision(status.model_copy(update={"state": "Idle", "message": "no trigger"}))
    case = Case(basis, history, trigger, status, proposal(basis, history.ordinal))
    return obstacle(case) or _start(case)


def _with_warning(decision: Decision, warning: str | None, observed: Observed) -> Decision:
    """The decision with a warning in its status, and an Event when there was none before."""
    if warning is None or decision.status is None:
        return decision
    before = observed.status.retraining
    is_known = before is not None and before.warning is not None
    events = () if is_known else (Event("Warning", Reason.RETRAINING_FORGETS, f"spec.{warning}"),)
    update = {"warning": warning}
    return replace(
        decision,
        status=decision.status.model_copy(update=update),
        events=(*decision.events, *events),
        refused=None if decision.refused is None else decision.refused.model_copy(update=update),
    )


def samples_since(situation: Situation) -> datetime | None:
    """The time from which corrections count: the estimated change, else the promotion.

    None if their number is not needed: the spec requires none, a job is in flight, or there is no trigger.
    """
    basis = basis_of(situation)
    if basis is None or not samples_needed(situation.observed):
        return None
    history = history_of(basis)
    trigger = trigger_of(basis, history)
    if trigger is None or history.in_flight:
        return None
    drift, since = situation.observed.status.drift, basis.stable.since
    if trigger.kind == "Drift" and drift is not None and drift.version == basis.stable.version and drift.change_point:
        return max(since, parse_timestamp(drift.change_point))
    return since


def samples_needed(observed: Observed) -> int:
    """The number of corrections that a retraining needs; 0 if its job does not train on this service's feedback."""
    retraining = observed.spec.retraining
    if retraining is None or retraining.job_template.spec.data.feedback is None:
        return 0
    return retraining.min_samples if retraining.job_template.spec.data.feedback.service == observed.name else 0


def _running(basis: Basis, status: RetrainingStatus, job: Job) -> Decision:
    before = basis.observed.status.retraining
    update: dict[str, object] = {"state": "Running", "message": f"Running: {job.name}", "job": job.name}
    if job.trigger is not None and job.trigger.kind != "User":
        update["trigger"] = job.trigger.kind
    if before is not None and before.job == job.name:
        update |= {"alert_key": before.alert_key, "since": before.since, "samples": before.samples}
    return Decision(status.model_copy(update=update), requeue_after=POLL_SECONDS)


def _start(case: Case) -> Decision:
    name, trigger, status = case.proposal, case.trigger, case.status
    handled = [*status.handled_alerts, *([trigger.alert.key] if trigger.alert else [])]
    update = {
        "state": "Running",
        "message": f"Running: {name}",
        "job": name,
        "proposal": name,
        "ordinal": status.ordinal + 1,
        "handled_alerts": list(dict.fromkeys(handled))[-_MAX_HANDLED:],
    }
    event = Event("Normal", Reason.RETRAINING_STARTED, f"{trigger.kind}: created FineTuneJob {name}")
    create = Create(finetune_job(case.basis, name, trigger))
    refused = waiting(case, f"FineTuneJob {name} can't be created, see condition {CHILDREN_REFUSED}")
    return Decision(
        status.model_copy(update=update), (create,), (event,), refused=refused.status, requeue_after=POLL_SECONDS
    )


def _status(basis: Basis, history: History, trigger: RetrainingTrigger | None) -> RetrainingStatus:
    before = basis.observed.status.retraining or RetrainingStatus()
    alert_key = trigger.alert.key if trigger and trigger.alert else None
    same = trigger is not None and before.trigger == trigger.kind and before.alert_key == alert_key
    since = before.since if same and before.since else timestamp(basis.situation.now)
    return RetrainingStatus(
        version=basis.stable.version,
        last_ending=history.last_ending,
        trigger=trigger.kind if trigger else None,
        alert_key=alert_key,
        since=since if trigger else None,
        samples=basis.observed.samples or 0,
        samples_needed=samples_needed(basis.observed),
        ordinal=history.ordinal,
        rejections=history.rejections,
        last_finished=timestamp(history.last_finished) if history.last_finished else None,
        handled_alerts=before.handled_alerts,
    )
