"""Replicas over several nodes with a real API server and the whole operator. The tests play Deployments and kubelet."""

from datetime import UTC, datetime
from typing import Any

import pytest

from control_plane.harness import Cluster, StartOperator, eventually
from control_plane.serving import deployment, judged, service, settled

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

ENGINE = {"type": "vllm", "image": "vllm:test", "nodes": 3}


def started(cluster: Cluster, operators: StartOperator) -> Any:
    """A service whose replicas are three pods each. Returns its Deployment."""
    operators().start().ready()
    judged(cluster, "v1")
    cluster.create(service(engine=ENGINE))
    return eventually(lambda: deployment(cluster, "v1"))


def lead(cluster: Cluster, owner: Any, name: str) -> Any:
    """A pod as the Deployment would create it."""
    template = owner["spec"]["template"]
    meta = template["metadata"] | {"name": name}
    cluster.create(
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"] | {"nodeName": "node-1"}}
    )
    return cluster.get("pod", name)


def run(cluster: Cluster, name: str, ready: bool = True, restarts: int = 0, **more: Any) -> None:
    """The status of a pod whose engine runs."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    sidecar = "initContainers" in (spec := cluster.get("pod", name)["spec"]) and len(spec["initContainers"]) > 1
    engine = {"name": "engine", "image": "vllm:test", "imageID": "", "ready": True, "restartCount": restarts}
    engine |= {"state": {"running": {"startedAt": now}}} | more
    status = {
        "phase": "Running",
        "podIP": "10.0.0.7",
        "podIPs": [{"ip": "10.0.0.7"}],
        "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": now}],
        "initContainerStatuses" if sidecar else "containerStatuses": [engine],
    }
    cluster.patch_status("pod", name, status)


def workers(cluster: Cluster, leader: Any) -> list[str]:
    """Names of a leader's workers."""
    uid = leader["metadata"]["uid"]
    owned = [(pod, pod["metadata"].get("ownerReferences") or []) for pod in cluster.list("pods")]
    return sorted(pod["metadata"]["name"] for pod, owners in owned if any(owner["uid"] == uid for owner in owners))


def both(cluster: Cluster, leader: Any) -> list[str]:
    """Names of a leader's workers, once it has two."""
    eventually(lambda: len(workers(cluster, leader)) == 2)
    return workers(cluster, leader)


def complete(cluster: Cluster, owner: Any, name: str) -> tuple[Any, list[str]]:
    """A leader with its workers, all of which run."""
    leader = lead(cluster, owner, name)
    run(cluster, name, ready=False)
    found = both(cluster, leader)
    for pod in found:
        run(cluster, pod)
    run(cluster, name)
    return leader, found


def test_a_leader_gets_workers_of_its_own_and_its_loss_of_one_ends_this_group_alone(
    cluster: Cluster, operators: StartOperator
) -> None:
    owner = started(cluster, operators)
    _, of_first = complete(cluster, owner, "first")
    second, of_second = complete(cluster, owner, "second")
    pod = cluster.get("pod", of_first[0])
    command = pod["spec"]["containers"][0]["command"]
    assert command[command.index("--master-addr") + 1] == "10.0.0.7"
    assert pod["metadata"]["ownerReferences"][0]["name"] == "first"  # so it is deleted after its leader
    assert {cluster.get("pod", name)["spec"]["containers"][0]["command"][-1] for name in of_first} == {"--headless"}
    eventually(lambda: settled(cluster, "v1", "stable"))

    cluster.kubectl("delete", "pod", of_first[0], "--wait=false")
    eventually(lambda: "deletionTimestamp" in cluster.get("pod", "first")["metadata"])

    [event] = eventually(lambda: [e for e in cluster.list("events") if e["reason"] == "GroupRestarted"])
    assert event["type"] == "Warning"
    assert "the group first is restarted: " in event["message"]
    assert cluster.get("pod", "second")["metadata"]["uid"] == second["metadata"]["uid"]
    assert workers(cluster, second) == of_second
    third, _ = complete(cluster, owner, "third")  # as the Deployment replaces it
    assert cluster.get("pod", "third")["metadata"]["uid"] == third["metadata"]["uid"]


def test_an_engine_that_was_restarted_gets_new_workers(cluster: Cluster, operators: StartOperator) -> None:
    leader, old = complete(cluster, started(cluster, operators), "first")
    ended = {"terminated": {"exitCode": 1, "finishedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}
    waiting: Any = {"state": {"running": None, "waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}
    run(cluster, "first", ready=False, **waiting)
    eventually(lambda: workers(cluster, leader) == [])
    run(cluster, "first", ready=False, restarts=1, lastState=ended)
    new = both(cluster, leader)
    assert set(new).isdisjoint(old)
    assert cluster.get("pod", "first")["metadata"]["uid"] == leader["metadata"]["uid"]


def test_the_status_says_how_many_pods_of_a_group_run(cluster: Cluster, operators: StartOperator) -> None:
    owner = started(cluster, operators)
    leader = lead(cluster, owner, "first")
    run(cluster, "first", ready=False)
    [one, _] = both(cluster, leader)
    run(cluster, one)
    wanted = "2 of 3 pods of the group first run their engine"
    eventually(lambda: wanted in cluster.condition("dlsvc", "desk", "Ready")["message"])
