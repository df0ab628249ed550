"""Pods and nodes lost while a model is trained: it goes on from the last checkpoint."""

import pytest

from cluster.interruptions import INTERRUPTS, Interruption
from cluster.lab import LONG, STEPS, Lab
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
    assert set(interrupted) == set(INTERRUPTS)
    for what, found in interrupted.items():
        assert found.resumed >= found.seen > 0, f"{what}: a checkpoint was lost"
    assert lab.train_result(trained).steps == STEPS
    assert lab.get("finetunejob", trained)["status"]["attempt"] == 2


def test_a_job_created_again_is_another_one(lab: Lab, trained: str) -> None:
    first = lab.get("finetunejob", trained)["status"]["version"]
    lab.kube.run("delete", "finetunejob", trained, "-n", lab.namespace)
    lab.pretrain(trained, training=LONG | {"maxSteps": 20}, compute={"nodes": 1})
    second = lab.phase(trained, "Succeeded")["status"]["version"]
    assert lab.starts(trained) == [0], "it went on from the checkpoint of a job that was deleted"
    assert first != second
    assert {first, second} <= {version["metadata"]["name"] for version in lab.list("modelversions")}


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
