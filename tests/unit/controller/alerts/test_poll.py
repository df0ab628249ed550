"""Reading an Alertmanager's answer; polling is tested against a real one."""

from datetime import datetime
from typing import Any

import aiohttp

from driftloop.controller.alerts.poll import Poll, read_alerts
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.readings.prometheus import Prometheus, Series

GOOD = {"labels": {"alertname": "A"}, "startsAt": "2026-01-01T00:00:00Z", "fingerprint": "f"}


def test_one_that_is_no_alert_does_not_hide_the_others() -> None:
    assert [alert.name for alert in read_alerts([{"labels": 1}, GOOD, "text"])] == ["A"]


def test_an_answer_of_another_shape_holds_no_alerts() -> None:
    assert read_alerts({"error": "x"}) == []


class Fired(Prometheus):
    """It remembers an alert that fired a while ago."""

    async def series(self, selector: str, at: datetime | None = None) -> list[Series]:
        return [Series({"alertname": "A"}, ((100.0, 1.0),))]


async def test_without_an_alertmanager_a_past_alert_may_have_been_silenced() -> None:
    """With the webhook alone, a silenced alert was found in Prometheus, and started a retraining."""
    api: Any = None
    async with aiohttp.ClientSession() as session:
        poll = Poll(session, Fired(session, "http://prometheus"), [], api, Caches(), 600)
        assert await poll._past({"A"}) is None
