"""Stale caches: a decision based on them must not overwrite what others have written since."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.harness import Cluster, OperatorProcess, StartOperator, eventually
from control_plane.heldwatches import HeldWatches, Request
from control_plane.objects import finetunejob
from control_plane.serving import deployment, judged, play_kubelet, role, service, settled
from driftloop.controller.runtime.kube.resources import WATCHED
from testcluster.controlplane import ControlPlane

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]


@pytest.fixture
def proxy(plane: ControlPlane, tmp_path: Path) -> Iterator[HeldWatches]:
    with HeldWatches(plane, tmp_path) as found:
        yield found


def test_what_another_leader_has_changed_meanwhile_is_refused_read_and_decided_anew(
    cluster: Cluster, operators: StartOperator, proxy: HeldWatches
) -> None:
    """In the cache v1 serves and v2 is the candidate, but v2 already serves: v1 must get no pods, v2 must keep its."""
    operators(f"--kubeconfig={proxy.kubeconfig}").start().ready()
    judged(cluster, "v1")
    cluster.create(service())
    eventually(lambda: settled(cluster, "v1", "stable"))
    judged(cluster, "v2", against="v1")
    eventually(lambda: settled(cluster, "v2", "candidate") and analysed(cluster, "v2"))
    proxy.hold("deployments")
    promote(cluster, old="v1", new="v2")
    old, new, seen = name_of(cluster, "v1"), name_of(cluster, "v2"), len(proxy.requests)
    cluster.kubectl("scale", "dlsvc", "desk", "--replicas=3")
    status = eventually(lambda: serving_status(cluster, "v2"))
    assert (role(cluster, "v2"), deployment(cluster, "v2")["spec"]["replicas"]) == ("stable", 3)
    assert status.get("failedRevisions", []) == []
    patches = [each for each in proxy.requests[seen:] if each.plural == "deployments" and each.verb == "PATCH"]
    written = [(each.path.rpartition("/")[2], each.code) for each in patches]
    assert {code for name, code in written if name == old} == {409}
    assert (written[0], written[-1]) == ((old, 409), (new, 200))
    assert [name for name, code in written if code < 300] == [new]


def analysed(cluster: Cluster, version: str) -> bool:
    return "driftloop.dev/analysis-started" in deployment(cluster, version)["metadata"]["annotations"]


def name_of(cluster: Cluster, version: str) -> str:
    return str(deployment(cluster, version)["metadata"]["name"])


def promote(cluster: Cluster, old: str, new: str) -> None:
    """Write what another leader writes at the end of a canary."""
    for version, wanted, replicas in ((new, "stable", 2), (old, "retired", 0)):
        change = {"metadata": {"labels": {"driftloop.dev/role": wanted}}, "spec": {"replicas": replicas}}
        cluster.kubectl("patch", "deployment", name_of(cluster, version), "--type=merge", "-p", json.dumps(change))
    play_kubelet(cluster)


def serving_status(cluster: Cluster, version: str) -> Any:
    status = cluster.get("dlsvc", "desk").get("status") or {}
    return status if (status.get("stable") or {}).get("version") == version else None


def test_a_new_leader_whose_watches_lag_lists_before_it_writes(
    cluster: Cluster, simple: StartOperator, proxy: HeldWatches
) -> None:
    """With its old cache of the job, the new leader would create the Service again that the user has removed."""
    first = simple(identity="a").start().ready()
    eventually(lambda: first.metric("driftloop_leader ") == 1)
    cluster.create(finetunejob("one", service="web"))
    eventually(lambda: cluster.get("service", "web"))
    second = simple(f"--kubeconfig={proxy.kubeconfig}", identity="b").start().ready()
    eventually(lambda: sum(request.watch for request in proxy.requests) >= len(WATCHED))
    proxy.hold()
    cluster.kubectl("annotate", "ftj", "one", "--overwrite", "service=site")
    eventually(lambda: cluster.get("service", "site"))
    first.stop(kill=True)
    cluster.kubectl("delete", "service", "web")
    cluster.create(finetunejob("two"))
    eventually(lambda: cluster.condition("ftj", "two", "Reconciling"))
    assert leads(second)
    assert cluster.get("service", "web") is None
    after = since_leading(proxy.requests)
    first_write = next(number for number, request in enumerate(after) if request.writes)
    listed = {request.plural for request in after[:first_write] if request.verb == "GET" and not request.watch}
    assert {resource.plural for resource in WATCHED} <= listed


def leads(operator: OperatorProcess) -> bool:
    return operator.metric("driftloop_leader ") == 1


def since_leading(requests: list[Request]) -> list[Request]:
    """The requests from the first write of the Lease on."""
    taken = next(
        number
        for number, request in enumerate(requests)
        if request.plural == "leases" and request.verb != "GET" and request.code < 300
    )
    return requests[taken:]
