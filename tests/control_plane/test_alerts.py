"""A real Alertmanager and Prometheus send alerts to real replicas. Each alert is recorded once, whatever its way."""

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control_plane.harness import TOKEN, Cluster, OperatorProcess, StartOperator, eventually
from control_plane.monitoring import Alertmanager, Prometheus
from control_plane.objects import inferenceservice
from driftloop.controller.alerts.alerts import fingerprint

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

POLL = "--alert-poll-seconds=1"


def records(cluster: Cluster, service: str = "support") -> list[Any]:
    return list((cluster.get("dlsvc", service).get("status") or {}).get("alerts") or [])


def told(operator: OperatorProcess, source: str) -> float:
    """Number of alerts from `source` that concerned a service."""
    results = ("recorded", "known")
    return sum(operator.metric(f'driftloop_alerts_total{{result="{each}",source="{source}"}}') for each in results)


def drift_labels(cluster: Cluster) -> dict[str, str]:
    return {"inference_namespace": cluster.namespace, "inference_service": "support"}


def drift(cluster: Cluster) -> Any:
    """A drift alert in the form that Prometheus posts."""
    return {"labels": {"alertname": "DriftloopModelDrift", **drift_labels(cluster)}, "startsAt": stamp(0)}


def silence(cluster: Cluster) -> Any:
    """A silence of the drift alert that started a minute ago and lasts an hour."""
    return {
        "matchers": [
            {"name": "inference_service", "value": "supp.*", "isRegex": True, "isEqual": True},
            {"name": "inference_namespace", "value": cluster.namespace, "isRegex": False, "isEqual": True},
        ],
        "startsAt": stamp(1),
        "endsAt": stamp(3600),
        "createdBy": "test",
        "comment": "known",
    }


def stamp(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def test_webhook_and_poll_of_two_alertmanagers_make_one_record(
    cluster: Cluster, simple: StartOperator, tmp_path: Path
) -> None:
    operator = simple()
    webhook = f"http://127.0.0.1:{operator.webhook}/alerts"
    with Alertmanager(tmp_path, webhook, TOKEN) as first, Alertmanager(tmp_path, webhook, TOKEN) as second:
        operator.add(POLL, f"--alertmanager-urls={first.url},{second.url}").start().ready()
        cluster.create(inferenceservice("support"))
        alert = drift(cluster)
        for each in (first, second):
            each.post("alerts", [alert])
        eventually(lambda: records(cluster))
        eventually(lambda: operator.metric('driftloop_alerts_total{result="known",source="Poll"}') > 1)
        eventually(lambda: operator.metric('driftloop_alerts_total{result="known",source="Webhook"}') > 0)
        assert len(records(cluster)) == 1


def test_webhook_poll_and_history_of_one_alert_make_one_record(
    cluster: Cluster, simple: StartOperator, tmp_path: Path
) -> None:
    operator = simple(POLL)
    cluster.create(inferenceservice("support"))
    with (
        Alertmanager(tmp_path, f"http://127.0.0.1:{operator.webhook}/alerts", TOKEN) as alertmanager,
        Prometheus(tmp_path, "DriftloopModelDrift", drift_labels(cluster), alertmanager) as prometheus,
    ):
        operator.add(f"--alertmanager-urls={alertmanager.url}", f"--prometheus-url={prometheus.url}").start().ready()
        for source in ("Webhook", "Poll"):  # in any order
            eventually(partial(told, operator, source))
        prometheus.end_alert()
        eventually(lambda: not prometheus.firing())
        polls = operator.metric("driftloop_alert_polls_total")
        eventually(lambda: operator.metric("driftloop_alert_polls_total") >= polls + 2)
        assert len(records(cluster)) == 1


def test_the_poll_finds_what_no_webhook_told_and_respects_a_silence(
    cluster: Cluster, simple: StartOperator, tmp_path: Path
) -> None:
    with Alertmanager(tmp_path) as alertmanager:
        operator = simple(POLL, f"--alertmanager-urls={alertmanager.url}").start().ready()
        cluster.create(inferenceservice("support"), inferenceservice("other"))
        alertmanager.post("silences", silence(cluster))
        time.sleep(1.5)  # the silence starts within a second
        unsilenced = drift(cluster)
        unsilenced["labels"]["inference_service"] = "other"
        alertmanager.post("alerts", [drift(cluster), unsilenced])
        [record] = eventually(lambda: records(cluster, "other"))
        assert record["key"].partition("/")[0] == fingerprint(
            unsilenced["labels"]
        )  # computed here, the same as Alertmanager's
        assert records(cluster) == []
        assert operator.running()


@pytest.mark.parametrize("silenced", [False, True])
def test_an_alert_that_fired_and_ended_while_the_operator_was_down_counts_unless_silenced(
    cluster: Cluster, simple: StartOperator, tmp_path: Path, silenced: bool
) -> None:
    cluster.create(inferenceservice("support"))
    with Alertmanager(tmp_path) as alertmanager:
        if silenced:
            alertmanager.post("silences", silence(cluster))
            time.sleep(1.5)
        with Prometheus(tmp_path, "DriftloopModelDrift", drift_labels(cluster)) as prometheus:
            eventually(prometheus.firing)
            prometheus.end_alert()
            eventually(lambda: not prometheus.firing())
            operator = (
                simple(POLL, f"--alertmanager-urls={alertmanager.url}", f"--prometheus-url={prometheus.url}")
                .start()
                .ready()
            )
            if silenced:
                eventually(lambda: operator.metric("driftloop_alert_polls_total") >= 2)
                assert records(cluster) == []
            else:
                [record] = eventually(lambda: records(cluster))
                assert record["source"] == "Poll"
                polls = operator.metric("driftloop_alert_polls_total")
                eventually(lambda: operator.metric("driftloop_alert_polls_total") >= polls + 2)
                assert len(records(cluster)) == 1
