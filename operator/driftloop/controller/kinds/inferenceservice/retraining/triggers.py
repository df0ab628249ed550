"""What triggers a retraining: a drift alert, another alert that the spec names, or the version's age. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from driftloop.api.inferenceservice import AlertRecord, RetrainingTriggerKind
from driftloop.contract.names import ALERT_NAME
from driftloop.controller.kinds.inferenceservice.retraining.history import Basis, History
from driftloop.controller.vocabulary.conditions import parse_timestamp

ALARM_SLACK = timedelta(minutes=5)  # an alert may begin this long before or after the check that raised the alarm


@dataclass(frozen=True)
class RetrainingTrigger:
    """A cause for a retraining."""

    kind: RetrainingTriggerKind  # what caused it
    started: datetime  # when the alert began, or when the version became too old
    alert: AlertRecord | None = None  # the alert, if one caused it


Alerts = list[tuple[datetime, AlertRecord]]  # alerts with the times at which they began


def trigger_of(basis: Basis, history: History) -> RetrainingTrigger | None:
    """The oldest open drift alert, else the oldest open alert that the spec names, else the version's age."""
    drift = _drift_alerts(basis)
    if trigger := _oldest("Drift", drift, _open_alerts(basis, history)) or _continuing_drift(basis, drift):
        return trigger
    others = _other_alerts(basis)
    if trigger := _oldest("Alert", others, _open_alerts(basis, history)) or _unavailable_answer(others, history):
        return trigger
    return _old_age(basis)


def is_confirmed(basis: Basis, started: datetime) -> bool:
    """Whether the operator's own evidence was above its threshold when a drift alert began, or later.

    Otherwise anyone who can write series into a shared Prometheus could start trainings of other users.
    """
    drift = basis.observed.status.drift
    if drift is None or drift.version != basis.stable.version or drift.last_alarm is None:
        return False
    return drift.alarm or started <= parse_timestamp(drift.last_alarm) + ALARM_SLACK


def _recorded(basis: Basis) -> Alerts:
    return [(parse_timestamp(alert.started), alert) for alert in basis.observed.status.alerts]


def _drift_alerts(basis: Basis) -> Alerts:
    """The drift alerts since the version's requests are watched: also those before its present revision.

    Of a held alarm all earlier ones too, because its alert continues to fire.
    """
    drift = basis.observed.status.drift
    held = drift is not None and drift.held_from is not None
    since = parse_timestamp(drift.since) if drift and drift.since else basis.stable.since
    return [
        (started, alert)
        for started, alert in _recorded(basis)
        if alert.alertname == ALERT_NAME and (held or started > since) and is_confirmed(basis, started)
    ]


def _other_alerts(basis: Basis) -> Alerts:
    """The alerts since the promotion that the spec names."""
    named = {trigger.alertname for trigger in basis.spec.triggers}
    since = basis.stable.since
    return [(started, alert) for started, alert in _recorded(basis) if alert.alertname in named and started > since]


@dataclass(frozen=True)
class _OpenAlerts:
    """Tells which alerts no retraining has answered."""

    handled: frozenset[str]  # keys of answered alerts
    answered_until: datetime | None  # when the latest job was created

    def __call__(self, started: datetime, alert: AlertRecord) -> bool:
        return alert.key not in self.handled and (self.answered_until is None or started > self.answered_until)


def _open_alerts(basis: Basis, history: History) -> _OpenAlerts:
    before = basis.observed.status.retraining
    return _OpenAlerts(frozenset(before.handled_alerts if before else ()), history.last_created)


def _oldest(kind: Literal["Drift", "Alert"], alerts: Alerts, is_open: _OpenAlerts) -> RetrainingTrigger | None:
    unanswered = [(started, alert) for started, alert in alerts if is_open(started, alert)]
    oldest = min(unanswered, key=_by_time, default=None)
    return RetrainingTrigger(kind, *oldest) if oldest else None


def _continuing_drift(basis: Basis, drift: Alerts) -> RetrainingTrigger | None:
    """An answered drift alert counts again while the alarm is still raised.

    Its job did not help, and no new alert will come, because this one continues to fire.
    """
    state = basis.observed.status.drift
    if state is None or not state.alarm or not drift:
        return None
    return RetrainingTrigger("Drift", *max(drift, key=_by_time))


def _unavailable_answer(others: Alerts, history: History) -> RetrainingTrigger | None:
    """The newest alert counts again if its training was not possible, because an alert fires only once."""
    if history.last_ending != "Unavailable" or not others:
        return None
    return RetrainingTrigger("Alert", *max(others, key=_by_time))


def _old_age(basis: Basis) -> RetrainingTrigger | None:
    if basis.spec.max_age_seconds is None:
        return None
    due = basis.serving.created + timedelta(seconds=basis.spec.max_age_seconds)
    return RetrainingTrigger("MaxAge", due) if basis.situation.now >= due else None


def _by_time(alert: tuple[datetime, AlertRecord]) -> tuple[datetime, str]:
    return alert[0], alert[1].key
