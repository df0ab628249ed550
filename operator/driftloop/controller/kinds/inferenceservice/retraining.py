"""When a new version is trained. Pure.

Retrain iff something asks for it (a recorded alert that the operator's own evidence bears out, an alarm that no job
answers, or the age of the version), and none is in flight, and the breaker is closed, and budget and cooldown allow it,
and there are enough corrections, and it was approved if it must be.

The job's name is a hash of service, stable version and ordinal, and the ordinal is the first whose job does not exist:
any number of deliveries, replicas and restarts makes one job. The jobs and versions tell the history when the status
was lost, and the status tells it when jobs were deleted. While the alarm is off an alert is answered by any job created
after it began: two Alertmanagers, or two Prometheus replicas with start times of their own, ask once.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from driftloop.api.base import API_VERSION
from driftloop.api.inferenceservice import AlertRecord, Retraining, RetrainingStatus
from driftloop.api.modelversion import Trigger
from driftloop.contract.names import ALERT_NAME
from driftloop.controller.kinds.inferenceservice.observed import Job, Observed, Revision, Version
from driftloop.controller.kinds.inferenceservice.revision import revision_of
from driftloop.controller.kinds.inferenceservice.selection import UNJUDGED, failed_revisions
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp
from driftloop.controller.vocabulary.labels import APPROVE, SERVICE, TRIGGER
from driftloop.controller.vocabulary.naming import MAX_RESOURCE_NAME, owner_reference
from driftloop.controller.vocabulary.plan import Action, Create, Event, Obj
from driftloop.controller.vocabulary.reasons import UNAVAILABLE, Reason

# Unavailable: cluster, storage or Ray failed it, which says nothing of model and data.
Ending = Literal["InFlight", "Rejected", "Unavailable", "Promoted", "Superseded"]
State = Literal["Idle", "Waiting", "AwaitingApproval", "Running", "Cooldown", "Blocked"]
DAY = timedelta(days=1)
WATCH_LAG = timedelta(seconds=60)
POLL_SECONDS = 10.0
ALARM_SLACK = timedelta(minutes=5)  # an alert may begin so long before or after the look that raised the alarm
_MAX_HANDLED = 64
_MAX_DOUBLINGS = 16  # of the cooldown: 2^16 hours are seven years


@dataclass(frozen=True)
class Ask:
    """What asks for a retraining."""

    kind: Literal["Drift", "Alert", "MaxAge"]
    started: datetime
    alert: AlertRecord | None = None


@dataclass(frozen=True)
class Decision:
    """What to do, and the status that says why. `blocked`: somebody has to act."""

    status: RetrainingStatus | None
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    blocked: bool = False
    requeue_after: float | None = None


@dataclass(frozen=True)
class History:
    """The retrainings of a service so far."""

    in_flight: tuple[Job, ...]
    ordinal: int  # retrainings of this stable version so far; the next one's number
    rejections: int  # of this stable version
    last_finished: datetime | None
    last_created: datetime | None
    last_ending: Ending | None
    today: int  # created within a day


def retrain(observed: Observed, now: datetime) -> Decision:
    """Start a retraining, or say what keeps it."""
    retraining, stable = observed.spec.retraining, observed.role("stable")
    if retraining is None:
        return Decision(None)
    serving = observed.version(stable.version) if stable else None
    if stable is None or serving is None:
        return Decision(RetrainingStatus(state="Idle", message="waits for a stable version"))
    history = look_back(observed, stable, serving, now)
    ask = asked(observed, retraining, stable, serving, history, now)
    base = _status(observed, history, ask, now)
    if history.in_flight:
        return _running(observed, base, history.in_flight[0])
    if ask is None:
        return Decision(base.model_copy(update={"state": "Idle", "message": "nothing asks for it"}))
    return _may_start(observed, retraining, serving, history, ask, base, now)


def job_name(service: str, service_uid: str, version_uid: str, ordinal: int) -> str:
    """At most 40 characters, the same for the same three."""
    tail = "-" + hashlib.sha256(f"{service_uid}\0{version_uid}\0{ordinal}".encode()).hexdigest()[:8]
    return service[: MAX_RESOURCE_NAME - len(tail)].rstrip("-") + tail


# --- what was -------------------------------------------------------------------------------------------------------


def look_back(observed: Observed, stable: Revision, serving: Version, now: datetime) -> History:
    """The history, from the jobs that exist and what became of their versions."""
    names = {job.name for job in observed.jobs}
    known = remembered(observed, serving)
    ordinal = known.ordinal
    while job_name(observed.name, observed.uid, serving.uid, ordinal) in names:
        ordinal += 1
    own = {job_name(observed.name, observed.uid, serving.uid, n) for n in range(ordinal)}
    endings = {job.name: ending(observed, stable, serving, job, now) for job in observed.jobs}
    latest = max(observed.jobs, key=lambda job: (job.created, job.name), default=None)
    finished = [_finished(observed, job) for job in observed.jobs if endings[job.name] != "InFlight"]
    if any(end == "Promoted" for end in endings.values()):
        finished.append(stable.since)
    return History(
        in_flight=tuple(job for job in observed.jobs if endings[job.name] == "InFlight"),
        ordinal=ordinal,
        rejections=max(known.rejections, sum(1 for name in own if endings.get(name) == "Rejected")),
        last_finished=max([*finished, *_moments(known.last_finished)], default=None),
        last_created=latest.created if latest else None,
        last_ending=endings[latest.name] if latest else None,
        today=sum(1 for job in observed.jobs if now - job.created < DAY),
    )


def remembered(observed: Observed, serving: Version) -> RetrainingStatus:
    """What the status keeps of this stable version's retrainings: jobs may have been deleted since."""
    before = observed.status.retraining
    return before if before and before.version == serving.name else RetrainingStatus()


def ending(observed: Observed, stable: Revision, serving: Version, job: Job, now: datetime) -> Ending:
    """What became of a job. In flight until its version serves, was turned down, or was overtaken."""
    if job.phase == "Failed":
        return "Unavailable" if job.reason in UNAVAILABLE else "Rejected"
    version = next((v for v in observed.versions if v.job_uid == job.uid), None)
    if version is None:
        return _without_version(job, now)
    if version.name == stable.version:
        return "Promoted"
    # Beside a stable version one that no suite judged is served by nobody.
    if version.phase in ("Rejected", "Failed", "AwaitingApproval"):
        return "Unavailable" if version.phase == "Failed" and version.reason in UNAVAILABLE else "Rejected"
    if version.phase in UNJUDGED:
        return "InFlight"
    if revision_of(observed, version) in failed_revisions(observed):
        return "Rejected"
    return "InFlight" if _will_roll_out(observed, serving, version) else "Superseded"


def _without_version(job: Job, now: datetime) -> Ending:
    """Still at work; or done, and somebody deleted what came of it. Jobs and versions come by two watches."""
    settled = job.phase == "Succeeded" and job.finished is not None and now - job.finished > WATCH_LAG
    return "Superseded" if settled else "InFlight"


def _will_roll_out(observed: Observed, serving: Version, version: Version) -> bool:
    pinned = observed.spec.model.version
    return version.name == pinned if pinned else version.age_key > serving.age_key


def _moments(text: str | None) -> list[datetime]:
    return [parse_timestamp(text)] if text else []


def _finished(observed: Observed, job: Job) -> datetime:
    """When it was over: with the verdict on its version, or with the job."""
    version = next((v for v in observed.versions if v.job_uid == job.uid), None)
    times = (job.created, job.finished, version.judged if version else None)
    return max(time for time in times if time is not None)


# --- what asks for it ------------------------------------------------------------------------------------------------


def asked(
    observed: Observed,
    retraining: Retraining,
    stable: Revision,
    serving: Version,
    history: History,
    now: datetime,
) -> Ask | None:
    """The oldest open alert of drift, or of the others that the spec names; else the version's age."""
    recorded = [(parse_timestamp(alert.started), alert) for alert in observed.status.alerts]
    since_promotion = [(moment, alert) for moment, alert in recorded if moment > stable.since]
    # An alarm that outlived a promotion goes on firing since before it.
    held = observed.status.drift is not None and observed.status.drift.held_from is not None
    drift = [
        (moment, alert)
        for moment, alert in (recorded if held else since_promotion)
        if alert.alertname == ALERT_NAME and is_borne_out(observed, stable, moment)
    ]
    named = {trigger.alertname for trigger in retraining.triggers}
    others = [(moment, alert) for moment, alert in since_promotion if alert.alertname in named]
    if ask := _oldest("Drift", drift, observed, history) or _unanswered(observed, drift):
        return ask
    if ask := _oldest("Alert", others, observed, history) or _failed_answer(others, history):
        return ask
    if retraining.max_age_seconds is not None:
        due = serving.created + timedelta(seconds=retraining.max_age_seconds)
        return Ask("MaxAge", due) if now >= due else None
    return None


Alerts = list[tuple[datetime, AlertRecord]]


def _oldest(kind: Literal["Drift", "Alert"], alerts: Alerts, observed: Observed, history: History) -> Ask | None:
    handled = set(observed.status.retraining.handled_alerts if observed.status.retraining else ())
    answered = history.last_created
    fresh = [
        (moment, alert)
        for moment, alert in alerts
        if alert.key not in handled and (answered is None or moment > answered)
    ]
    found = min(fresh, key=lambda pair: (pair[0], pair[1].key), default=None)
    return Ask(kind, *found) if found else None


def is_borne_out(observed: Observed, stable: Revision, started: datetime) -> bool:
    """Whether the operator's own evidence was above its threshold when an alert of drift fired, or after it.

    Who may write series into a shared Prometheus could otherwise start trainings for others.
    """
    drift = observed.status.drift
    if drift is None or drift.version != stable.version or drift.last_alarm is None:
        return False
    return drift.alarm or started <= parse_timestamp(drift.last_alarm) + ALARM_SLACK


def _unanswered(observed: Observed, drift: Alerts) -> Ask | None:
    """The drift is still there, and no job that lives or was promoted answers it: with one this is not asked.

    The alert goes on firing and will not come anew, whatever became of the job that answered it first.
    """
    state = observed.status.drift
    if state is None or not state.alarm or not drift:
        return None
    return Ask("Drift", *max(drift, key=lambda pair: (pair[0], pair[1].key)))


def _failed_answer(others: Alerts, history: History) -> Ask | None:
    """The newest alert whose training could not be had: it asks again, as it fires only once."""
    if history.last_ending != "Unavailable" or not others:
        return None
    return Ask("Alert", *max(others, key=lambda pair: (pair[0], pair[1].key)))


# --- what keeps it ---------------------------------------------------------------------------------------------------


def _may_start(
    observed: Observed,
    retraining: Retraining,
    serving: Version,
    history: History,
    ask: Ask,
    base: RetrainingStatus,
    now: datetime,
) -> Decision:
    """The first thing that keeps it from starting; or the start."""
    if history.rejections >= retraining.max_rejections:
        return _blocked(observed, base, history.rejections)
    if history.today >= retraining.max_jobs_per_day:
        return _keep(base, "Cooldown", f"{history.today} of {retraining.max_jobs_per_day} jobs of a day are used up")
    if (rest := _cooldown_left(retraining, history, now)) > 0:
        why = f" after {history.rejections} rejections" if history.rejections else ""
        until = timestamp(now + timedelta(seconds=rest))
        return _keep(base, "Cooldown", f"rests until {until}{why}", requeue_after=rest)
    if base.samples_needed and observed.samples is None:
        return _keep(base, "Waiting", f"?/{base.samples_needed} samples: Prometheus does not say how many there are")
    if base.samples < base.samples_needed:
        return _keep(base, "Waiting", f"{base.samples}/{base.samples_needed} samples")
    proposal = job_name(observed.name, observed.uid, serving.uid, history.ordinal)
    base = base.model_copy(update={"proposal": proposal})
    if retraining.approval == "manual" and observed.annotations.get(APPROVE) != proposal:
        return _await_approval(observed, base, proposal)
    return _start(observed, retraining, base, proposal, ask)


def _cooldown_left(retraining: Retraining, history: History, now: datetime) -> float:
    """Seconds; none before the first retraining."""
    if history.last_finished is None:
        return 0.0
    rest = retraining.cooldown_seconds * 2 ** min(history.rejections, _MAX_DOUBLINGS)
    return float(rest - (now - history.last_finished).total_seconds())


def _keep(base: RetrainingStatus, state: State, message: str, requeue_after: float = POLL_SECONDS) -> Decision:
    status = base.model_copy(update={"state": state, "message": f"{state}: {message}"})
    return Decision(status, requeue_after=max(1.0, requeue_after))


def _blocked(observed: Observed, base: RetrainingStatus, rejections: int) -> Decision:
    message = (
        f"{rejections} candidates in a row were rejected: look at their gates and at the data, "
        "then raise spec.retraining.maxRejections, or have another version promoted"
    )
    kept = _keep(base, "Blocked", message)
    events = (Event("Warning", Reason.RETRAINING_BLOCKED, message),) if _changes(observed, "Blocked") else ()
    return Decision(kept.status, events=events, blocked=True, requeue_after=kept.requeue_after)


def _await_approval(observed: Observed, base: RetrainingStatus, proposal: str) -> Decision:
    message = f"kubectl annotate dlsvc {observed.name} --overwrite {APPROVE}={proposal}"
    kept = _keep(base, "AwaitingApproval", message)
    event = Event("Normal", Reason.RETRAINING_PROPOSED, f"{base.trigger} asks for {proposal}: {message}")
    return Decision(kept.status, events=(event,) if _changes(observed, "AwaitingApproval") else ())


def _changes(observed: Observed, state: State) -> bool:
    before = observed.status.retraining
    return before is None or before.state != state


def _running(observed: Observed, base: RetrainingStatus, job: Job) -> Decision:
    before = observed.status.retraining
    update: dict[str, object] = {"state": "Running", "message": f"Running: {job.name}", "job": job.name}
    if job.trigger is not None and job.trigger.kind != "User":
        update["trigger"] = job.trigger.kind
    if before is not None and before.job == job.name:
        update |= {"alert_key": before.alert_key, "since": before.since, "samples": before.samples}
    return Decision(base.model_copy(update=update), requeue_after=POLL_SECONDS)


def _start(observed: Observed, retraining: Retraining, base: RetrainingStatus, name: str, ask: Ask) -> Decision:
    body = finetune_job(observed, retraining, name, ask)
    handled = [*base.handled_alerts, *([ask.alert.key] if ask.alert else [])]
    status = base.model_copy(
        update={
            "state": "Running",
            "message": f"Running: {name}",
            "job": name,
            "ordinal": base.ordinal + 1,
            "handled_alerts": list(dict.fromkeys(handled))[-_MAX_HANDLED:],
        }
    )
    event = Event("Normal", Reason.RETRAINING_STARTED, f"{ask.kind}: created FineTuneJob {name}")
    return Decision(status, (Create(body),), (event,), requeue_after=POLL_SECONDS)


def finetune_job(observed: Observed, retraining: Retraining, name: str, ask: Ask) -> Obj:
    """The job, from the template. It belongs to the service; its version will belong to nobody."""
    template = retraining.job_template
    trigger = Trigger(
        kind=ask.kind,
        service=observed.name,
        alert=ask.alert.alertname if ask.alert else None,
        started=timestamp(ask.started),
    )
    return {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "metadata": {
            "name": name,
            "namespace": observed.namespace,
            "labels": {**template.metadata.labels, SERVICE: observed.name},
            "annotations": {
                **template.metadata.annotations,
                TRIGGER: trigger.model_dump_json(by_alias=True, exclude_none=True),
            },
            "ownerReferences": [owner_reference(observed.service)],
        },
        "spec": template.spec.dump(),
    }


def samples_since(observed: Observed, now: datetime) -> datetime | None:
    """From when on corrections count: the estimated change, else the promotion. None: nobody needs to know.

    None also while a job is in flight, or nothing asks for one.
    """
    retraining, stable = observed.spec.retraining, observed.role("stable")
    serving = observed.version(stable.version) if stable else None
    if retraining is None or stable is None or serving is None or not samples_needed(observed):
        return None
    history = look_back(observed, stable, serving, now)
    ask = asked(observed, retraining, stable, serving, history, now)
    if ask is None or history.in_flight:
        return None
    drift = observed.status.drift
    known = ask.kind == "Drift" and drift is not None and drift.version == stable.version and drift.change_point
    return max(stable.since, parse_timestamp(known)) if known else stable.since


def samples_needed(observed: Observed) -> int:
    """Corrections of this very service are counted; a job that learns from other data needs none."""
    retraining = observed.spec.retraining
    if retraining is None or retraining.job_template.spec.data.feedback is None:
        return 0
    return retraining.min_samples if retraining.job_template.spec.data.feedback.service == observed.name else 0


def _status(observed: Observed, history: History, ask: Ask | None, now: datetime) -> RetrainingStatus:
    before = observed.status.retraining or RetrainingStatus()
    stable = observed.role("stable")
    alert_key = ask.alert.key if ask and ask.alert else None
    same = ask is not None and before.trigger == ask.kind and before.alert_key == alert_key
    return RetrainingStatus(
        version=stable.version if stable else None,
        last_ending=history.last_ending,
        trigger=ask.kind if ask else None,
        alert_key=alert_key,
        since=(before.since if same and before.since else timestamp(now)) if ask else None,
        samples=observed.samples or 0,
        samples_needed=samples_needed(observed),
        ordinal=history.ordinal,
        rejections=history.rejections,
        last_finished=timestamp(history.last_finished) if history.last_finished else None,
        handled_alerts=before.handled_alerts,
    )
