"""Alerts: read from Alertmanager's forms, matched to services, merged into `status.alerts`. Pure.

Only that an alert fired counts, not that it ended: one that fired and resolved asks for retraining all the same.
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
MAX_NAME = 1024  # of an alert, as the CRD has it
MAX_FINGERPRINT = 64
GAP = timedelta(minutes=5)  # a shorter pause in a series doesn't make two alerts of one
SERVICE_LABEL, NAMESPACE_LABEL = "inference_service", "inference_namespace"


class BadAlert(ValueError):
    """Not an alert; the message names the field."""


@dataclass(frozen=True)
class Alert:
    """An alert that fired. `key` is the same however and however often it is delivered."""

    fingerprint: str
    labels: Mapping[str, str]
    started: datetime
    ended: datetime | None = None  # known of what was found in Prometheus' history

    @property
    def name(self) -> str:
        """Its alertname."""
        return self.labels.get("alertname", "")

    @property
    def key(self) -> str:
        """Fingerprint and start."""
        return f"{self.fingerprint}/{_time(self.started)}"

    @property
    def namespace(self) -> str:
        """The namespace of the services it may concern; empty when it names none."""
        return self.labels.get(NAMESPACE_LABEL) or self.labels.get("namespace") or ""


def parse(raw: Any) -> Alert:
    """One alert of a webhook (v4) or of /api/v2/alerts. Raises BadAlert."""
    if not isinstance(raw, dict):
        raise BadAlert("an alert must be an object")
    labels = raw.get("labels")
    if not isinstance(labels, dict) or not all(isinstance(each, str) for each in labels.values()):
        raise BadAlert("labels must be an object of strings")
    if not labels.get("alertname"):
        raise BadAlert("labels.alertname is missing")
    if len(labels["alertname"]) > MAX_NAME:
        raise BadAlert(f"labels.alertname is longer than {MAX_NAME}")
    given = raw.get("fingerprint") or fingerprint(labels)
    if not isinstance(given, str) or len(given) > MAX_FINGERPRINT:
        raise BadAlert(f"fingerprint must be a string of at most {MAX_FINGERPRINT}")
    return Alert(given, labels, _started(raw.get("startsAt")))


def _started(text: Any) -> datetime:
    try:
        found = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
        utc = found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadAlert(f"startsAt is no RFC 3339 time: {str(text)[:64]}") from None
    if found.tzinfo is None:
        raise BadAlert("startsAt has no time zone")
    return utc


def fingerprint(labels: Mapping[str, str]) -> str:
    """Alertmanager's own fingerprint of a label set: FNV-1a, 64 bits (prometheus/common, model/fnv.go)."""
    digest = 14695981039346656037
    for name in sorted(labels):
        for byte in name.encode() + b"\xff" + labels[name].encode() + b"\xff":
            digest = ((digest ^ byte) * 1099511628211) & 0xFFFFFFFFFFFFFFFF
    return f"{digest:016x}"


def concerned(alert: Alert, services: Iterable[Obj]) -> list[Obj]:
    """The services that `alert` is about: its own drift alert by its labels, others' by `spec.retraining.triggers`.

    What began before a service was made is about another one of its name: Prometheus remembers that one's alerts, and
    the poll once gave them to its successor.
    """
    return [service for service in services if _concerns(alert, service)]


def merged(records: list[Obj], alert: Alert, source: AlertSource, now: datetime) -> list[Obj] | None:
    """The records with `alert` among them, the newest MAX_RECORDS; None when it is there already."""
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
    """In whole seconds, as the API server has it: what begins within that second counts."""
    return datetime.fromisoformat(metadata["creationTimestamp"])


def triggers(service: Obj) -> list[Obj]:
    """`spec.retraining.triggers`, whatever else is wrong with the object."""
    listed = field(service, "spec", "retraining", "triggers")
    return [trigger for trigger in listed if isinstance(trigger, dict)] if isinstance(listed, list) else []


def _matches(alert: Alert, trigger: Obj) -> bool:
    labels = trigger.get("labels") or {}
    return bool(trigger.get("alertname") == alert.name and labels.items() <= alert.labels.items())


def _same(record: Obj, alert: Alert) -> bool:
    """The same key; or, where Prometheus' history is involved, the same name at about the same time.

    There an alert lacks external labels, so its fingerprint is another; and a Prometheus that was just started writes
    its first sample some evaluations after the alert began, or lets it begin anew.
    """
    if record.get("key") == alert.key:
        return True
    if record.get("alertname") != alert.name:
        return False
    slack = GAP if alert.ended or record.get("source") == "Poll" else timedelta(0)
    begin, end = _time(alert.started - slack), _time((alert.ended or alert.started) + slack)
    return begin <= str(record["started"]) <= end


def _time(moment: datetime) -> str:
    """Milliseconds, as Prometheus has them; in the order of time as text too."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
