"""The runtime against a real API server, with the simple deciders of simple.py."""

import pytest

from control_plane.harness import Cluster, StartOperator, eventually
from control_plane.objects import finetunejob

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(180)]

WRITES = 'driftloop_api_requests_total{code="2'


def writes(operator: object) -> float:
    """Requests that are not GETs, without those of the elector (a PUT or POST of the Lease)."""
    text = operator.probe("/metrics")[1]  # type: ignore[attr-defined]
    lines = [line for line in text.splitlines() if line.startswith("driftloop_api_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'verb="PATCH"' in line or 'verb="DELETE"' in line)


def test_reconciles_to_the_end_and_tells_it(cluster: Cluster, simple: StartOperator) -> None:
    operator = simple().start().ready()
    cluster.create(finetunejob("one"))
    job = eventually(lambda: cluster.list("jobs"))[0]
    eventually(lambda: cluster.condition("ftj", "one", "Reconciling"))
    now = "2026-01-01T00:00:00Z"
    complete = [
        {"type": kind, "status": "True", "lastTransitionTime": now} for kind in ("SuccessCriteriaMet", "Complete")
    ]
    cluster.patch_status(
        "job",
        job["metadata"]["name"],
        {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": complete},
    )
    eventually(lambda: (cluster.condition("ftj", "one", "Ready") or {}).get("status") == "True")
    assert cluster.condition("ftj", "one", "Reconciling") is None
    events = eventually(lambda: [each for each in cluster.list("events.events.k8s.io") if each["reason"] == "Done"])
    assert len(events) == 1
    assert events[0]["reportingController"] == "driftloop.dev/operator"
    assert operator.stop() == 0
