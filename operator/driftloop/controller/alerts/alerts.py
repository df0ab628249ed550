"""Alerts: parsed from Alertmanager's formats, matched to services, merged into `status.alerts`. Pure.

What counts is that an alert fired. An alert that has resolved asks for retraining as well.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from driftloop.api.inferenceservice import AlertSource
from driftloop.contract.names import ALERT_NAME
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj

MAX_RECORDS = 64
MAX_NAME = 1024  # characters of an alert's name; the same limit as in the CRD
MAX_FINGERPRINT = 64
GAP = timedelta(minutes=5)  # samples with a shorter gap between them belong to one alert
SERVICE_LABEL, NAMESPACE_LABEL = "inference_service", "inference_namespace"


class BadAlert(ValueError):
    """A value that is not an alert; the message names the field."""


@dataclass(frozen=True)
class Alert:
    """An alert that fired."""

    fingerprint: str
    labels: Mapping[str, str]
    started: datetime
    ended: datetime | None = None  # known only if the alert was read from Prometheus' history

    @property
    def name(self) -> str:
        """The label `alertname`."""
        return self.labels.get("alertname", "")

    @property
    def key(self) -> str:
        """Fingerprint and start: the same for each delivery of the alert, by webhook or by polling Alertmanager."""
        return f"{self.fingerprint}/{_time(self.started)}"

    @property
    def namespace(self) -> str:
        """The namespace of the services that it may concern; empty when its labels name none."""
        return self.labels.get(NAMESPACE_LABEL) or self.labels.get("namespace") or ""


def parse(raw: Any) -> Alert:
    """Parse one alert of a webhook (v4) or of /api/v2/alerts. Raises BadAlert."""
    if not isinstance(raw, dict):
        raise BadAlert("an alert must be an object")
    labels = raw.get("labels")
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise BadAlert("labels must be an object of strings")
    if not labels.get("alertname"):
        raise BadAlert("labels.alertname is missing")
    if len(labels["alertname"]) > MAX_NAME:
        raise BadAlert(f"labels.alertname is longer than {MAX_NAME} characters")
    identity = raw.get("fingerprint") or fingerprint(labels)
    if not isinstance(identity, str) or len(identity) > MAX_FINGERPRINT:
        raise BadAlert(f"fingerprint must be a string of at most {MAX_FINGERPRINT} characters")
    return Alert(identity, labels, _started(raw.get("startsAt")))


def _started(text: Any) -> datetime:
    try:
        started = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
        utc = started.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadAlert(f"startsAt is not an RFC 3339 time: {str(text)[:64]}") from None
    if started.tzinfo is None:
        raise BadAlert("startsAt has no time zone")
    return utc


def fingerprint(labels: Mapping[str, str]) -> str:
    """The fingerprint that Alertmanager gives to a label set: FNV-1a, 64 bits (prometheus/common, model/fnv.go)."""
    digest = 14695981039346656037
    for name in sorted(labels):
        for byte in name.encode() + b"\xff" + labels[name].encode() + b"\xff":
            digest = ((digest ^ byte) * 1099511628211) & 0xFFFFFFFFFFFFFFFF
    return f"{digest:016x}"


def concerned(alert: Alert, services: Iterable[Obj]) -> list[Obj]:
    """The services that `alert` concerns.

    Driftloop's own drift alert names its service in a label; other alerts are matched by `spec.retraining.triggers`.
    An alert that started before the service was created concerns a deleted service of the same name, which Prometheus
    still remembers.
    """
    return [service for service in services if _concerns(alert, service)]


def merged(records: list[Obj], alert: Alert, source: AlertSource, now: datetime) -> list[Obj] | None:
    """The newest MAX_RECORDS records, `alert` included; None when the alert is recorded already."""
    if any(_same(record, alert) for record in records):
        return None
    new = {
        "key": alert.key,
        "alertname": alert.name,
        "started": _time(alert.started),
        "received": _time(now),
        "source": source,
    }
    return sorted([*records, new], key=lambda record: str(record["received"]))[-MAX_RECORDS:]


def _concerns(alert: Alert, service: Obj) -> bool:
    metadata = service["metadata"]
    if alert.namespace != metadata["namespace"] or alert.started < _created(metadata):
        return False
    if alert.name == ALERT_NAME:
        return bool(alert.labels.get(SERVICE_LABEL) == metadata["name"])
    return any(_matches(alert, trigger) for trigger in triggers(service))


def _created(metadata: Obj) -> datetime:
    """The creation time, in whole seconds as the API server stores it."""
    return datetime.fromisoformat(metadata["creationTimestamp"])


def triggers(service: Obj) -> list[Obj]:
    """`spec.retraining.triggers`, also of an object that does not parse."""
    entries = field(service, "spec", "retraining", "triggers")
    return [trigger for trigger in entries if isinstance(trigger, dict)] if isinstance(entries, list) else []


def _matches(alert: Alert, trigger: Obj) -> bool:
    labels = trigger.get("labels") or {}
    return bool(trigger.get("alertname") == alert.name and labels.items() <= alert.labels.items())


def _same(record: Obj, alert: Alert) -> bool:
    """Whether the keys are equal or, if one of the two is from Prometheus' history, the names and about the times.

    In the history an alert lacks the external labels (https://github.com/prometheus/prometheus/issues/1437), so its
    fingerprint differs. And after a restart Prometheus writes the first sample some evaluations after the alert began,
    or gives the alert a new start (https://github.com/prometheus/prometheus/issues/15175).
    """
    if record.get("key") == alert.key:
        return True
    if record.get("alertname") != alert.name:
        return False
    slack = GAP if alert.ended or record.get("source") == "Poll" else timedelta(0)
    earliest, latest = _time(alert.started - slack), _time((alert.ended or alert.started) + slack)
    return earliest <= str(record["started"]) <= latest


def _time(moment: datetime) -> str:
    """A timestamp with milliseconds, as Prometheus has them. These texts sort in the order of time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
