"""What a service requires of a version, with a real API server and the whole operator."""

import json
from typing import Any

import pytest

from control_plane.harness import Cluster, StartOperator, eventually
from control_plane.serving import deployment, judged, role, service, settled

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(300)]

FLOOR = {"kind": "floor", "name": "anchor", "minItems": 100}
GATE = {"name": "anchor", "kind": "floor", "verdict": "Pass", "message": "reached", "items": 200}


def status(cluster: Cluster) -> Any:
    return cluster.get("dlsvc", "desk").get("status") or {}


def waiting(cluster: Cluster) -> Any:
    return status(cluster).get("waiting")


def require(cluster: Cluster, acceptance: Any) -> None:
    """Change the bar of the service."""
    cluster.kubectl("patch", "dlsvc", "desk", "--type=merge", "-p", json.dumps({"spec": {"acceptance": acceptance}}))


def test_a_version_waits_with_the_list_of_what_is_missing_until_it_meets_the_bar(
    cluster: Cluster, operators: StartOperator
) -> None:
    operators("--acceptance=" + json.dumps({"suites": [{"kind": "floor", "minItems": 300}]})).start().ready()
    judged(cluster, "v1")
    cluster.create(service(acceptance={"suites": [FLOOR]}))
    found = eventually(lambda: waiting(cluster))
    assert found["version"] == "v1"
    assert [sentence.split(" judged")[0] for sentence in found["missing"]] == [
        "no suite anchor of kind floor",
        "no suite of kind floor",
    ]
    assert deployment(cluster, "v1") is None
    reconciling = eventually(lambda: cluster.condition("dlsvc", "desk", "Reconciling"))
    assert reconciling["reason"] == "NotAccepted"
    cluster.patch_status("mver", "v1", {"gates": [GATE]})
    operators_only = "suite anchor (kind floor) has 200 items, 300 are required: add items"
    eventually(lambda: (waiting(cluster) or {}).get("missing") == [operators_only])
    [event] = [event for event in cluster.list("events") if event["reason"] == "NotAccepted"]
    assert event["type"] == "Warning"
    cluster.patch_status("mver", "v1", {"gates": [GATE | {"items": 300}]})
    eventually(lambda: settled(cluster, "v1", "stable"))
    eventually(lambda: waiting(cluster) is None)


def test_what_serves_stays_when_the_bar_is_raised_and_the_next_version_waits(
    cluster: Cluster, operators: StartOperator
) -> None:
    operators().start().ready()
    judged(cluster, "v1")
    cluster.create(service())
    eventually(lambda: settled(cluster, "v1", "stable"))
    require(cluster, {"suites": [FLOOR]})
    judged(cluster, "v2", against="v1")
    found = eventually(lambda: waiting(cluster))
    assert found["version"] == "v2"
    assert deployment(cluster, "v2") is None
    assert eventually(lambda: settled(cluster, "v1", "stable"))
    ready = eventually(lambda: cluster.condition("dlsvc", "desk", "Ready"))
    assert (ready["status"], ready["reason"]) == ("True", "NotAccepted")
    require(cluster, None)
    eventually(lambda: role(cluster, "v2") == "candidate")
