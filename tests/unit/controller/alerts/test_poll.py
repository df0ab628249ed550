"""Reading an Alertmanager's answer; polling is tested against a real one."""

from driftloop.controller.alerts.poll import read_alerts

GOOD = {"labels": {"alertname": "A"}, "startsAt": "2026-01-01T00:00:00Z", "fingerprint": "f"}


def test_one_that_is_no_alert_does_not_hide_the_others() -> None:
    assert [alert.name for alert in read_alerts([{"labels": 1}, GOOD, "text"])] == ["A"]


def test_an_answer_of_another_shape_holds_no_alerts() -> None:
    assert read_alerts({"error": "x"}) == []
