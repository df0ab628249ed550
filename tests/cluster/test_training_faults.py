"""Pods and nodes lost while a model is trained: it goes on from the last checkpoint."""

from collections.abc import Iterator

import pytest

from cluster.interruptions import Interruption
from cluster.lab import LONG, STEPS, Lab, operator_pod
from testcluster import wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def waiting(lab: Lab) -> str:
    """A job whose head waits for a third node, which there isn't. It gives up while another test goes on."""
    name = "too-many-nodes"
    lab.pretrain(name, compute={"nodes": 3, "startupTimeoutSeconds": 45, "backoffLimit": 0})
    return name


def test_a_foreign_pod_is_refused_by_ray_itself(lab: Lab, waiting: str) -> None:
    def address() -> str | None:
        heads = lab.list("pods", f"driftloop.dev/job={waiting},batch.kubernetes.io/job-completion-index=0")
        return next((pod["status"]["podIP"] for pod in heads if pod["status"]["phase"] == "Running"), None)

    head = lab.kube.wait("the head", address, 120, tell=lambda: lab.story(waiting))
    join = f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN=0000 python3 -c \"import ray; ray.init(address='{head}:6379')\""
    # Ray tries again for minutes; its first answer is what counts.
    command = ["bash", "-c", f"grep -m1 -e InvalidAuthToken -e Connected <(timeout 60 env {join} 2>&1)"]
    assert "InvalidAuthToken" in lab.run_pod("foreigner", lab.installed.images["trainer"], command)


def test_a_lost_worker_a_lost_head_and_a_suspension_cost_a_checkpoint_interval_each(
    lab: Lab, trained: str, interrupted: dict[str, Interruption]
) -> None:
    for what, found in interrupted.items():
        assert found.resumed >= found.seen > 0, f"{what}: a checkpoint was lost"
    assert lab.train_result(trained).steps == STEPS
    assert lab.get("finetunejob", trained)["status"]["attempt"] == 2


def test_more_nodes_than_join_end_with_what_to_do_and_all_is_released(lab: Lab, waiting: str) -> None:
    job = lab.phase(waiting, "Failed")
    message = next(c["message"] for c in job["status"]["conditions"] if c["type"] == "Failed")
    assert "compute.nodes" in message, message

    def at_work() -> list[str]:
        pods = lab.list("pods", f"driftloop.dev/job={waiting}")
        return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] in ("Running", "Pending")]

    wait.until(lambda: not at_work(), "all pods released", 60)


def test_a_deleted_job_leaves_nothing_in_the_cluster(lab: Lab, waiting: str) -> None:
    lab.phase(waiting, "Failed")

    def left() -> list[str]:
        kinds = ("jobs", "pods", "services", "secrets", "networkpolicies")
        return [kind for kind in kinds if lab.list(kind, f"driftloop.dev/job={waiting}")]

    assert {"jobs", "pods", "secrets"} <= set(left())
    lab.kube.run("delete", "finetunejob", waiting, "-n", lab.namespace)
    lab.kube.wait("nothing left", lambda: not left(), 90, tell=lambda: str(left()))


@pytest.fixture
def node_without_operator(lab: Lab) -> Iterator[str]:
    """A node to lose: the operator's own is cordoned while the job is placed."""
    kept = operator_pod(lab.kube)["spec"]["nodeName"]
    nodes = [node["metadata"]["name"] for node in lab.kube.list("nodes", lab.namespace)]
    lost = next(node for node in nodes if node != kept)
    lab.kube.run("cordon", kept)
    yield lost
    lab.installed.provider.heal_node(lost)
    lab.kube.run("uncordon", kept)
    lab.kube.run("wait", f"node/{lost}", "--for=condition=Ready", "--timeout=120s", timeout=130)


def test_a_job_created_again_is_another_one_and_a_lost_node_costs_it_a_checkpoint_interval(
    lab: Lab, trained: str, node_without_operator: str
) -> None:
    first = lab.get("finetunejob", trained)["status"]["version"]
    lab.kube.run("delete", "finetunejob", trained, "-n", lab.namespace)
    compute = {"nodes": 1, "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "3Gi"}}}
    lab.pretrain(trained, training=LONG, compute=compute)
    seen = lab.checkpoint_beyond(trained, 40)
    assert lab.starts(trained) == [0], "it went on from the checkpoint of a job that was deleted"
    lab.installed.provider.fail_node(node_without_operator)
    lab.kube.run("uncordon", operator_pod(lab.kube)["spec"]["nodeName"])
    second = lab.phase(trained, "Succeeded")["status"]["version"]
    result = lab.train_result(trained)
    assert result.steps == STEPS
    assert result.resumed_from_step >= seen
    pods = lab.list("pods", f"driftloop.dev/job={trained},driftloop.dev/stage=train")
    done = next(pod for pod in pods if pod["status"]["phase"] == "Succeeded")
    assert done["spec"]["nodeName"] != node_without_operator
    assert first != second
    assert {first, second} <= {version["metadata"]["name"] for version in lab.list("modelversions")}
