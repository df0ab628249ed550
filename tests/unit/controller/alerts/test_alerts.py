"""Alerts, whoever tells them and however often."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.alerts.alerts import MAX_RECORDS, Alert, BadAlert, concerned, fingerprint, merged, parse

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def alert(name: str = "DriftloopModelDrift", started: datetime = NOW, print_: str = "f1", **labels: str) -> Alert:
    return Alert(print_, {"alertname": name, **labels}, started)


def service(name: str, namespace: str = "ns", triggers: Any = None) -> Any:
    spec = {"retraining": {"triggers": triggers}} if triggers is not None else {}
    return {"metadata": metadata(name, namespace), "spec": spec}


def metadata(name: str, namespace: str = "ns") -> Any:
    return {"name": name, "namespace": namespace, "creationTimestamp": "2026-11-24T12:00:00Z"}


def names(found: list[Any]) -> list[str]:
    return [each["metadata"]["name"] for each in found]


def test_its_own_alert_concerns_the_service_it_names() -> None:
    services = [service("a"), service("b"), service("a", "other")]
    found = concerned(alert(inference_namespace="ns", inference_service="a"), services)
    assert [each["metadata"] for each in found] == [metadata("a")]


def test_what_began_before_a_service_was_made_is_about_another_of_its_name() -> None:
    of = {"inference_namespace": "ns", "inference_service": "a"}
    assert names(concerned(alert(started=NOW, **of), [service("a")])) == ["a"]
    assert concerned(alert(started=NOW - timedelta(seconds=1), **of), [service("a")]) == []


def test_the_namespace_of_the_scraped_pod_does_not_count_beside_the_services() -> None:
    drift = alert(namespace="monitoring", inference_namespace="ns", inference_service="a")
    assert names(concerned(drift, [service("a"), service("a", "monitoring")])) == ["a"]


def test_anothers_alert_concerns_services_that_name_it_with_its_labels() -> None:
    trigger = [{"alertname": "LowRating", "labels": {"team": "x"}}]
    services = [service("a", triggers=trigger), service("b", triggers=[{"alertname": "LowRating"}]), service("c")]
    assert names(concerned(alert("LowRating", namespace="ns", team="x", more="y"), services)) == ["a", "b"]
    assert names(concerned(alert("LowRating", namespace="ns", team="y"), services)) == ["b"]
    assert names(concerned(alert("LowRating", namespace="other", team="x"), services)) == []
    assert names(concerned(alert("LowRating", team="x"), services)) == []


def test_its_own_alert_cannot_be_named_as_a_trigger_for_all() -> None:
    everybody = [service("a", triggers=[{"alertname": "DriftloopModelDrift"}])]
    assert concerned(alert(inference_namespace="ns", inference_service="b"), everybody) == []


@pytest.mark.parametrize("spec", [None, "text", {"retraining": "text"}, {"retraining": {"triggers": ["text"]}}])
def test_a_service_that_does_not_parse_is_not_concerned(spec: Any) -> None:
    broken = {"metadata": metadata("a"), "spec": spec}
    assert concerned(alert("X", namespace="ns"), [broken]) == []


def test_a_second_delivery_is_no_news() -> None:
    records = merged([], alert(), "Webhook", NOW)
    assert records is not None
    assert merged(records, alert(), "Poll", NOW) is None
    assert merged(records, alert(started=NOW + timedelta(seconds=1)), "Poll", NOW) is not None


def test_the_same_start_under_another_fingerprint_is_the_same_alert() -> None:
    records = merged([], alert(), "Webhook", NOW)
    assert records is not None
    assert merged(records, alert(print_="f2"), "Poll", NOW) is None


def test_history_that_overlaps_a_record_is_no_news() -> None:
    records = merged([], alert(), "Webhook", NOW)
    assert records is not None

    def past(minutes: float, until: float) -> Alert:
        start, end = NOW + timedelta(minutes=minutes), NOW + timedelta(minutes=until)
        return Alert("f2", {"alertname": "DriftloopModelDrift"}, start, end)

    assert merged(records, past(-1, 10), "Poll", NOW) is None
    assert merged(records, past(-8, -1), "Poll", NOW) is None
    assert merged(records, past(1, 10), "Poll", NOW) is None  # Prometheus was restarted
    assert merged(records, past(-60, -30), "Poll", NOW) is not None
    assert merged(records, past(30, 60), "Poll", NOW) is not None


def test_history_is_no_news_to_the_webhook_that_follows() -> None:
    records = merged([], Alert("f2", {"alertname": "DriftloopModelDrift"}, NOW, NOW), "Poll", NOW)
    assert records is not None
    assert merged(records, alert(started=NOW - timedelta(seconds=2)), "Webhook", NOW) is None
    assert merged(records, alert(started=NOW + timedelta(minutes=10)), "Webhook", NOW) is not None


@given(st.lists(st.integers(0, 200), max_size=150))
def test_the_newest_are_kept_each_once(minutes: list[int]) -> None:
    records: list[Any] = []
    for at, minute in enumerate(minutes):
        started = NOW + timedelta(minutes=minute)
        records = merged(records, alert(started=started), "Webhook", NOW + timedelta(seconds=at)) or records
    keys = [record["key"] for record in records]
    assert len(set(keys)) == len(keys) <= MAX_RECORDS
    if minutes:
        assert alert(started=NOW + timedelta(minutes=minutes[-1])).key in keys or minutes[-1] in minutes[:-1]


def test_a_fingerprint_depends_on_every_label_and_not_on_their_order() -> None:
    """That it is Alertmanager's own is tested against a real one."""
    assert fingerprint({}) == "cbf29ce484222325"  # FNV-1a's offset basis
    assert fingerprint({"a": "b", "c": "d"}) == fingerprint({"c": "d", "a": "b"})
    assert len({fingerprint({"a": "bc"}), fingerprint({"ab": "c"}), fingerprint({"a": "b"})}) == 3


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("text", "must be an object"),
        ({"labels": {"alertname": 1}}, "labels must be"),
        ({"labels": {}}, "alertname is missing"),
        ({"labels": {"alertname": "A"}}, "startsAt"),
        ({"labels": {"alertname": "A"}, "startsAt": "2026-01-01T00:00:00"}, "time zone"),
        ({"labels": {"alertname": "A"}, "startsAt": "0001-01-01T00:00:00+10:00"}, "startsAt"),
        ({"labels": {"alertname": "A" * 1025}, "startsAt": "2026-01-01T00:00:00Z"}, "alertname is longer"),
        ({"labels": {"alertname": "A"}, "fingerprint": 1, "startsAt": "2026-01-01T00:00:00Z"}, "fingerprint"),
    ],
)
def test_nonsense_is_refused_by_field(raw: Any, message: str) -> None:
    with pytest.raises(BadAlert, match=message):
        parse(raw)


def test_times_are_told_in_utc_and_milliseconds() -> None:
    found = parse({"labels": {"alertname": "A"}, "startsAt": "2026-01-01T01:00:00.1239+01:00", "fingerprint": "f"})
    assert found.key == "f/2026-01-01T00:00:00.123Z"
