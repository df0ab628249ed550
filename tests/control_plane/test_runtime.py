"""The runtime on a real API server, with the deciders in simple.py."""

import json
from functools import partial
from typing import Any

import pytest

from control_plane.harness import Cluster, OperatorProcess, StartOperator, eventually
from control_plane.objects import finetunejob

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

FOREIGN: Any = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "theirs", "labels": {"app": "theirs"}},
    "spec": {"ports": [{"name": "http", "port": 81}]},
}


def complete(cluster: Cluster, job: str) -> None:
    """Complete a Job, like the Job controller."""
    now = "2026-01-01T00:00:00Z"
    kinds = ("SuccessCriteriaMet", "Complete")
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds]
    cluster.patch_status(
        "job", job, {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": conditions}
    )


def is_ready(cluster: Cluster, name: str) -> bool:
    return (cluster.condition("ftj", name, "Ready") or {}).get("status") == "True"


def test_reconciles_to_the_end_and_tells_it_in_one_event(cluster: Cluster, simple: StartOperator) -> None:
    operator = simple().start().ready()
    cluster.create(finetunejob("one"))
    job = eventually(lambda: cluster.list("jobs"))[0]
    eventually(lambda: cluster.condition("ftj", "one", "Reconciling"))
    complete(cluster, job["metadata"]["name"])
    eventually(lambda: is_ready(cluster, "one"))
    assert cluster.condition("ftj", "one", "Reconciling") is None
    [event] = [each for each in cluster.list("events.events.k8s.io") if each["reason"] == "Done"]
    assert event["reportingController"] == "driftloop.dev/operator"
    assert event["regarding"]["name"] == "one"
    assert operator.stop() == 0


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.long("scale"))])
def test_a_restart_writes_nothing(cluster: Cluster, simple: StartOperator, count: int) -> None:
    flags = ("--qps=500", "--burst=500")
    first = simple(*flags).start().ready()
    cluster.create(*(finetunejob(f"job-{number}") for number in range(count)))
    eventually(partial(has_jobs, cluster, first, count))
    for job in cluster.list("jobs")[:20]:
        complete(cluster, job["metadata"]["name"])
    eventually(lambda: sum(is_done(each) for each in cluster.list("ftj")) == 20)
    eventually(lambda: first.metric("driftloop_queue_depth") == 0)
    assert first.stop() == 0

    before = cluster.revisions()
    assert len(before) >= 3 * count
    second = simple(*flags, identity="b").start().ready()
    eventually(lambda: second.metric("driftloop_reconcile_total") >= count)
    eventually(lambda: second.metric("driftloop_queue_depth") == 0)
    assert second.metric('driftloop_reconcile_total{kind="FineTuneJob",result="settled"}') >= count
    assert second.writes() == 0
    assert cluster.revisions() == before


def has_jobs(cluster: Cluster, operator: OperatorProcess, count: int) -> bool:
    """Fail with the operator's state if there are fewer Jobs, to explain a timeout."""
    found = len(cluster.list("jobs"))
    seen = {name: operator.metric(f"driftloop_{name}") for name in ("queue_depth", "leader", "reconcile_total")}
    assert found == count, f"{found} Jobs; {seen}; {operator.process and operator.process.poll()}"
    return True


def is_done(obj: Any) -> bool:
    return bool((obj.get("status") or {}).get("phase") == "Succeeded")


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_killed_after_any_write_it_goes_on_and_makes_nothing_twice(
    cluster: Cluster, simple: StartOperator, writes: int
) -> None:
    operator = simple()
    cluster.create(finetunejob("one"))
    operator.start(CRASH_AFTER=str(writes))
    assert operator.process is not None
    assert operator.process.wait(timeout=60) == 9
    operator.start()
    job = eventually(lambda: cluster.list("jobs"))[0]
    complete(cluster, job["metadata"]["name"])
    eventually(lambda: is_ready(cluster, "one"))
    assert len(cluster.list("jobs")) == 1
    assert len([each for each in cluster.list("services") if each["metadata"].get("ownerReferences")]) == 1


def test_a_name_that_somebody_else_has_is_a_condition_until_it_is_free(cluster: Cluster, simple: StartOperator) -> None:
    cluster.create(FOREIGN)
    before = cluster.get("service", "theirs")
    simple().start().ready()
    cluster.create(finetunejob("one", service="theirs"), finetunejob("other"))
    stalled = eventually(lambda: cluster.condition("ftj", "one", "Stalled"))
    assert stalled["reason"] == "NameTaken"
    assert "Service theirs exists already and has no controller" in stalled["message"]
    assert cluster.get("service", "theirs") == before
    eventually(
        lambda: cluster.condition("ftj", "other", "Reconciling")
    )  # a problem with one object doesn't affect others
    cluster.kubectl("delete", "service", "theirs")
    eventually(lambda: cluster.condition("ftj", "one", "Reconciling"))
    assert cluster.condition("ftj", "one", "Stalled") is None


def test_a_field_that_somebody_else_took_is_a_condition_and_stays_theirs(
    cluster: Cluster, simple: StartOperator
) -> None:
    simple().start().ready()
    cluster.create(finetunejob("one", service="web"))
    eventually(lambda: cluster.get("service", "web"))
    ports = [{"op": "replace", "path": "/spec/ports/0/targetPort", "value": 9999}]
    cluster.kubectl("patch", "service", "web", "--type=json", "-p", json.dumps(ports))
    stalled = eventually(lambda: cluster.condition("ftj", "one", "Stalled"))
    assert stalled["reason"] == "FieldConflict"
    assert "kubectl-patch" in stalled["message"]
    assert ".spec.ports" in stalled["message"]
    assert cluster.get("service", "web")["spec"]["ports"][0]["targetPort"] == 9999
    cluster.kubectl("delete", "service", "web")
    eventually(lambda: cluster.get("service", "web")["spec"]["ports"][0]["targetPort"] == 8080)
    eventually(lambda: cluster.condition("ftj", "one", "Stalled") is None)


def test_what_the_api_server_refuses_is_a_condition_with_its_message(cluster: Cluster, simple: StartOperator) -> None:
    simple().start().ready()
    cluster.create(finetunejob("one", service="web", port="99999"))
    stalled = eventually(lambda: cluster.condition("ftj", "one", "Stalled"))
    assert stalled["reason"] == "ApiRefused"
    assert "spec.ports[0].port" in stalled["message"]


def test_an_object_that_does_not_parse_is_its_own_condition(cluster: Cluster, simple: StartOperator) -> None:
    simple().start().ready()
    bad = finetunejob("bad")
    bad["spec"]["training"] = {"seed": 5000}
    cluster.create(bad, finetunejob("good"))
    stalled = eventually(lambda: cluster.condition("ftj", "bad", "Stalled"))
    assert stalled["reason"] == "InvalidSpec"
    assert "spec.training.seed" in stalled["message"]
    eventually(lambda: cluster.condition("ftj", "good", "Reconciling"))


def test_a_wiped_status_is_written_again(cluster: Cluster, simple: StartOperator) -> None:
    simple().start().ready()
    cluster.create(finetunejob("one"))
    eventually(lambda: cluster.condition("ftj", "one", "Reconciling"))
    cluster.kubectl("patch", "ftj", "one", "--subresource=status", "--type=merge", "-p", '{"status": null}')
    eventually(lambda: cluster.condition("ftj", "one", "Reconciling"))


def test_the_api_server_going_away_for_a_while_ends_nothing_but_the_lease(
    cluster: Cluster, simple: StartOperator
) -> None:
    operator = simple("--lease-seconds=30", "--renew-deadline-seconds=25").start().ready()
    eventually(lambda: operator.metric("driftloop_leader") == 1)
    cluster.plane.stop_apiserver()
    cluster.plane.start_apiserver()
    cluster.create(finetunejob("one"))
    eventually(lambda: cluster.condition("ftj", "one", "Reconciling"))
    assert operator.running()


def test_metrics_count_objects_by_phase(cluster: Cluster, simple: StartOperator) -> None:
    operator = simple().start().ready()
    cluster.create(finetunejob("one"))
    eventually(lambda: operator.metric('driftloop_objects{kind="FineTuneJob",phase="Training"}') == 1)
    cluster.kubectl("delete", "ftj", "one")
    eventually(lambda: operator.metric('driftloop_objects{kind="FineTuneJob"') == 0)
