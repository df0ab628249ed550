"""Leader election between processes with a real Lease."""

import json

import pytest

from control_plane.harness import Cluster, OperatorProcess, StartOperator, eventually
from control_plane.objects import finetunejob
from driftloop.controller.process.leadership import LEASE_LOST

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]


def leads(operator: OperatorProcess) -> bool:
    return operator.metric("driftloop_leader ") == 1


def holder(cluster: Cluster) -> str:
    return str(cluster.get("lease", "driftloop-operator")["spec"].get("holderIdentity"))


def pair(simple: StartOperator) -> tuple[OperatorProcess, OperatorProcess]:
    """A leader and a follower."""
    first = simple(identity="a").start().ready()
    eventually(lambda: leads(first))
    return first, simple(identity="b").start().ready()


def test_one_leads_both_are_ready_and_a_killed_leader_is_followed(cluster: Cluster, simple: StartOperator) -> None:
    first, second = pair(simple)
    cluster.create(finetunejob("one"))
    eventually(lambda: cluster.condition("ftj", "one", "Reconciling"))
    assert not leads(second)
    assert second.writes() == 0

    first.stop(kill=True)
    cluster.create(finetunejob("two"))
    eventually(lambda: cluster.condition("ftj", "two", "Reconciling"))
    assert leads(second)
    spec = cluster.get("lease", "driftloop-operator")["spec"]
    assert spec["holderIdentity"] == "b"
    assert spec["leaseTransitions"] == 1


def test_a_clean_exit_hands_the_lease_over_without_waiting_for_its_end(cluster: Cluster, simple: StartOperator) -> None:
    first = simple("--lease-seconds=600", "--renew-deadline-seconds=60", identity="a").start().ready()
    eventually(lambda: leads(first))
    second = simple(identity="b").start().ready()
    assert first.stop() == 0
    eventually(lambda: leads(second))  # sooner than the duration of the Lease
    assert holder(cluster) == "b"


def test_a_leader_whose_lease_is_taken_ends_at_once(cluster: Cluster, simple: StartOperator) -> None:
    operator = simple("--lease-seconds=600", "--renew-deadline-seconds=300", identity="a").start().ready()
    eventually(lambda: leads(operator))
    spec = {"holderIdentity": "thief", "leaseDurationSeconds": 600}
    cluster.kubectl("patch", "lease", "driftloop-operator", "--type=merge", "-p", json.dumps({"spec": spec}))
    assert operator.process is not None
    assert operator.process.wait(timeout=60) == LEASE_LOST
    assert holder(cluster) == "thief"


def test_a_leader_that_cannot_renew_ends_before_its_lease_does(cluster: Cluster, simple: StartOperator) -> None:
    operator = simple("--lease-seconds=60", identity="a").start().ready()
    eventually(lambda: leads(operator))
    cluster.plane.stop_apiserver()
    try:
        assert operator.process is not None
        assert operator.process.wait(timeout=50) == LEASE_LOST
    finally:
        cluster.plane.start_apiserver()
