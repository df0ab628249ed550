"""Alertmanager's webhook on a real replica, recording into a real API server."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from control_plane.harness import TOKEN, Cluster, StartOperator, eventually
from control_plane.objects import inferenceservice

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]


def alert(cluster: Cluster, service: str = "support", started: str = "2126-11-24T10:00:00.123Z", **labels: str) -> Any:
    """A firing drift alert in the form that Alertmanager sends."""
    return {
        "status": "firing",
        "labels": {
            "alertname": "DriftloopModelDrift",
            "inference_namespace": cluster.namespace,
            "inference_service": service,
            "namespace": "monitoring",
            **labels,
        },
        "annotations": {},
        "startsAt": started,
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "0123456789abcdef",
    }


def body(*alerts: Any) -> bytes:
    return json.dumps({"version": "4", "status": "firing", "receiver": "driftloop", "alerts": alerts}).encode()


def records(cluster: Cluster, service: str = "support") -> list[Any]:
    return list((cluster.get("dlsvc", service).get("status") or {}).get("alerts") or [])


def test_refuses_strangers_nonsense_and_floods(cluster: Cluster, simple: StartOperator) -> None:
    operator = simple().start().ready()
    cluster.create(inferenceservice("support"))
    good = body(alert(cluster))
    assert operator.post(good, token=None)[0] == 401
    assert operator.post(good, token="wrong")[0] == 401
    assert operator.post(good, token="")[0] == 401
    assert operator.post(b"{")[0] == 400
    assert "version" in operator.post(json.dumps({"version": "3", "alerts": []}).encode())[1]
    assert "alerts[1]: startsAt" in operator.post(body(alert(cluster), alert(cluster) | {"startsAt": "soon"}))[1]
    assert operator.post(b" " * (2 << 20))[0] == 413
    assert records(cluster) == []
    assert operator.post(good) == (200, json.dumps({"received": 1, "recorded": 1, "ignored": 0}))


def test_a_rotated_token_counts_at_once(cluster: Cluster, simple: StartOperator) -> None:
    operator = simple().start().ready()
    cluster.create(inferenceservice("support"))
    operator.log.with_name("token").write_text("another\n")
    assert operator.post(body(alert(cluster)), token=TOKEN)[0] == 401
    assert operator.post(body(alert(cluster)), token="another")[0] == 200
    operator.log.with_name("token").write_text("")
    assert operator.post(body(alert(cluster)), token="")[0] == 401


def test_two_alertmanagers_telling_two_replicas_make_one_record(cluster: Cluster, simple: StartOperator) -> None:
    replicas = [simple(identity=each).start() for each in ("a", "b")]
    for each in replicas:
        each.ready()
    cluster.create(inferenceservice("support"))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: replicas[number % 2].post(body(alert(cluster))), range(8)))
    assert {code for code, _ in answers} == {200}
    assert sum(json.loads(text)["recorded"] for _, text in answers) == 1
    [record] = records(cluster)
    assert record["alertname"] == "DriftloopModelDrift"
    assert record["started"] == "2126-11-24T10:00:00.123Z"
    assert record["source"] == "Webhook"


def test_different_alerts_at_once_are_all_recorded_and_the_newest_are_kept(
    cluster: Cluster, simple: StartOperator
) -> None:
    replicas = [simple(identity=each).start() for each in ("a", "b")]
    for each in replicas:
        each.ready()
    cluster.create(inferenceservice("support"))
    bodies = [body(alert(cluster, started=f"2126-11-24T10:00:0{number}Z")) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda number: replicas[number % 2].post(bodies[number]), range(6)))
    assert {code for code, _ in answers} == {200}
    assert len(records(cluster)) == 6
    many = [
        alert(cluster, started=f"2126-11-24T{hour:02}:{minute:02}:00Z") for hour in (11, 12) for minute in range(40)
    ]
    assert replicas[0].post(body(*many))[0] == 200
    assert len(records(cluster)) == 64


def test_who_is_concerned(cluster: Cluster, simple: StartOperator) -> None:
    operator = simple().start().ready()
    cluster.create(
        inferenceservice("support"),
        inferenceservice("triggered", [{"alertname": "LowRating", "labels": {"team": "support"}}]),
    )
    others = {"alertname": "LowRating", "inference_namespace": "", "namespace": cluster.namespace, "team": "support"}
    sent = body(
        alert(cluster, **others),
        alert(cluster, **(others | {"team": "sales"})),
        alert(cluster, service="unknown"),
        alert(cluster, inference_namespace="kube-system"),
    )
    assert json.loads(operator.post(sent)[1]) == {"received": 4, "recorded": 1, "ignored": 3}
    assert [each["alertname"] for each in records(cluster, "triggered")] == ["LowRating"]
    assert records(cluster) == []


def test_the_status_that_reconciling_writes_leaves_the_alerts_alone(cluster: Cluster, simple: StartOperator) -> None:
    operator = simple().start().ready()
    cluster.create(inferenceservice("support"))
    assert operator.post(body(alert(cluster)))[0] == 200
    cluster.kubectl("patch", "dlsvc", "support", "--type=merge", "-p", '{"spec": {"replicas": 3}}')
    eventually(lambda: cluster.get("dlsvc", "support")["status"].get("observedGeneration") == 2)
    assert len(records(cluster)) == 1


def test_what_cannot_be_recorded_is_not_answered_200(cluster: Cluster, simple: StartOperator) -> None:
    operator = simple("--lease-seconds=60", "--renew-deadline-seconds=50").start().ready()
    cluster.create(inferenceservice("support"))
    cluster.plane.stop_apiserver()
    try:
        assert operator.post(body(alert(cluster)))[0] == 500
    finally:
        cluster.plane.start_apiserver()
    assert eventually(lambda: operator.post(body(alert(cluster)))[0] == 200)
    assert len(records(cluster)) == 1
