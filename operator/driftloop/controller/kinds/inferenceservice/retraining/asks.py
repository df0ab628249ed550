"""What asks for a retraining: an alert of drift, another alert that the spec names, or the version's age. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from driftloop.api.inferenceservice import AlertRecord, RetrainingTriggerKind
from driftloop.contract.names import ALERT_NAME
from driftloop.controller.kinds.inferenceservice.retraining.history import Basis, History
from driftloop.controller.vocabulary.conditions import parse_timestamp

ALARM_SLACK = timedelta(minutes=5)  # an alert may begin so long before or after the look that raised the alarm


@dataclass(frozen=True)
class Ask:
    """What asks for a retraining."""

    kind: RetrainingTriggerKind
    started: datetime
    alert: AlertRecord | None = None


Alerts = list[tuple[datetime, AlertRecord]]  # with the times at which they began


def ask_of(basis: Basis, history: History) -> Ask | None:
    """The oldest open alert of drift, or of the others that the spec names; else the version's age."""
    drift = _drift_alerts(basis)
    if ask := _oldest("Drift", drift, _open(basis, history)) or _unanswered(basis, drift):
        return ask
    others = _other_alerts(basis)
    if ask := _oldest("Alert", others, _open(basis, history)) or _failed_answer(others, history):
        return ask
    return _old_age(basis)


def is_borne_out(basis: Basis, started: datetime) -> bool:
    """Whether the operator's own evidence was above its threshold when an alert of drift fired, or after it.

    Who may write series into a shared Prometheus could otherwise start trainings for others.
    """
    drift = basis.observed.status.drift
    if drift is None or drift.version != basis.stable.version or drift.last_alarm is None:
        return False
    return drift.alarm or started <= parse_timestamp(drift.last_alarm) + ALARM_SLACK


def _recorded(basis: Basis) -> Alerts:
    return [(parse_timestamp(alert.started), alert) for alert in basis.observed.status.alerts]


def _drift_alerts(basis: Basis) -> Alerts:
    """Those since the promotion; an alarm that outlived it goes on firing since before it."""
    drift = basis.observed.status.drift
    held = drift is not None and drift.held_from is not None
    return [
        (started, alert)
        for started, alert in _recorded(basis)
        if alert.alertname == ALERT_NAME and (held or started > basis.stable.since) and is_borne_out(basis, started)
    ]


def _other_alerts(basis: Basis) -> Alerts:
    """Those since the promotion that the spec names."""
    named = {trigger.alertname for trigger in basis.spec.triggers}
    since = basis.stable.since
    return [(started, alert) for started, alert in _recorded(basis) if alert.alertname in named and started > since]


@dataclass(frozen=True)
class _Open:
    """Which alerts no retraining has answered."""

    handled: frozenset[str]  # keys
    answered_until: datetime | None  # when the last job was created

    def __call__(self, started: datetime, alert: AlertRecord) -> bool:
        return alert.key not in self.handled and (self.answered_until is None or started > self.answered_until)


def _open(basis: Basis, history: History) -> _Open:
    before = basis.observed.status.retraining
    return _Open(frozenset(before.handled_alerts if before else ()), history.last_created)


def _oldest(kind: Literal["Drift", "Alert"], alerts: Alerts, is_open: _Open) -> Ask | None:
    fresh = [(started, alert) for started, alert in alerts if is_open(started, alert)]
    oldest = min(fresh, key=_by_time, default=None)
    return Ask(kind, *oldest) if oldest else None


def _unanswered(basis: Basis, drift: Alerts) -> Ask | None:
    """The drift is still there, and no job that lives or was promoted answers it: with one this is not asked.

    The alert goes on firing and will not come anew, whatever became of the job that answered it first.
    """
    state = basis.observed.status.drift
    if state is None or not state.alarm or not drift:
        return None
    return Ask("Drift", *max(drift, key=_by_time))


def _failed_answer(others: Alerts, history: History) -> Ask | None:
    """The newest alert whose training could not be had: it asks again, as it fires only once."""
    if history.last_ending != "Unavailable" or not others:
        return None
    return Ask("Alert", *max(others, key=_by_time))


def _old_age(basis: Basis) -> Ask | None:
    if basis.spec.max_age_seconds is None:
        return None
    due = basis.serving.created + timedelta(seconds=basis.spec.max_age_seconds)
    return Ask("MaxAge", due) if basis.situation.now >= due else None


def _by_time(alert: tuple[datetime, AlertRecord]) -> tuple[datetime, str]:
    return alert[0], alert[1].key
