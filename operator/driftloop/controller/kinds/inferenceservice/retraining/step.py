"""Start a retraining, or say what keeps it. Pure."""

from datetime import datetime

from driftloop.api.inferenceservice import RetrainingStatus
from driftloop.controller.kinds.inferenceservice.observed import Job, Observed
from driftloop.controller.kinds.inferenceservice.retraining.asks import Ask, ask_of
from driftloop.controller.kinds.inferenceservice.retraining.history import (
    Basis,
    History,
    basis_of,
    look_back,
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
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import CHILDREN_REFUSED, parse_timestamp, timestamp
from driftloop.controller.vocabulary.plan import Create, Event
from driftloop.controller.vocabulary.reasons import Reason

_MAX_HANDLED = 64  # alerts remembered in status


def retrain(situation: Situation) -> Decision:
    """Start a retraining, or say what keeps it."""
    if situation.observed.spec.retraining is None:
        return Decision(None)
    basis = basis_of(situation)
    if basis is None:
        return Decision(RetrainingStatus(state="Idle", message="waits for a stable version"))
    history = look_back(basis)
    ask = ask_of(basis, history)
    status = _status(basis, history, ask)
    if history.in_flight:
        return _running(basis, status, history.in_flight[0])
    if ask is None:
        return Decision(status.model_copy(update={"state": "Idle", "message": "nothing asks for it"}))
    case = Case(basis, history, ask, status, proposal(basis, history.ordinal))
    return obstacle(case) or _start(case)


def samples_since(situation: Situation) -> datetime | None:
    """From when on corrections count: the estimated change, else the promotion. None: nobody needs to know.

    None also while a job is in flight, or nothing asks for one.
    """
    basis = basis_of(situation)
    if basis is None or not samples_needed(situation.observed):
        return None
    history = look_back(basis)
    ask = ask_of(basis, history)
    if ask is None or history.in_flight:
        return None
    drift, since = situation.observed.status.drift, basis.stable.since
    if ask.kind == "Drift" and drift is not None and drift.version == basis.stable.version and drift.change_point:
        return max(since, parse_timestamp(drift.change_point))
    return since


def samples_needed(observed: Observed) -> int:
    """Corrections of this very service are counted; a job that learns from other data needs none."""
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
    name, ask, status = case.proposal, case.ask, case.status
    handled = [*status.handled_alerts, *([ask.alert.key] if ask.alert else [])]
    update = {
        "state": "Running",
        "message": f"Running: {name}",
        "job": name,
        "proposal": name,
        "ordinal": status.ordinal + 1,
        "handled_alerts": list(dict.fromkeys(handled))[-_MAX_HANDLED:],
    }
    event = Event("Normal", Reason.RETRAINING_STARTED, f"{ask.kind}: created FineTuneJob {name}")
    create = Create(finetune_job(case.basis, name, ask))
    refused = waiting(case, f"FineTuneJob {name} can't be created, see condition {CHILDREN_REFUSED}")
    return Decision(
        status.model_copy(update=update), (create,), (event,), refused=refused.status, requeue_after=POLL_SECONDS
    )


def _status(basis: Basis, history: History, ask: Ask | None) -> RetrainingStatus:
    before = basis.observed.status.retraining or RetrainingStatus()
    alert_key = ask.alert.key if ask and ask.alert else None
    same = ask is not None and before.trigger == ask.kind and before.alert_key == alert_key
    since = before.since if same and before.since else timestamp(basis.situation.now)
    return RetrainingStatus(
        version=basis.stable.version,
        last_ending=history.last_ending,
        trigger=ask.kind if ask else None,
        alert_key=alert_key,
        since=since if ask else None,
        samples=basis.observed.samples or 0,
        samples_needed=samples_needed(basis.observed),
        ordinal=history.ordinal,
        rejections=history.rejections,
        last_finished=timestamp(history.last_finished) if history.last_finished else None,
        handled_alerts=before.handled_alerts,
    )
