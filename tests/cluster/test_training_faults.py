"""Too few nodes, too little memory, a foreign pod. Lost pods and nodes: test_interruptions.py, test_node_loss.py."""

from contextlib import suppress

import pytest

from cluster.lab import LONG, Lab
from demo.kube import KubectlError
from testcluster import wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def waiting(lab: Lab) -> str:
    """A job whose head waits for a third node that doesn't exist. It times out while another test runs."""
    name = "too-many-nodes"
    lab.pretrain(name, compute={"nodes": 3, "startupTimeoutSeconds": 45, "backoffLimit": 0})
    return name


@pytest.mark.long("faults")
def test_a_foreign_pod_is_refused_by_ray_itself(lab: Lab, waiting: str) -> None:
    def address() -> str | None:
        heads = lab.list("pods", f"driftloop.dev/job={waiting},batch.kubernetes.io/job-completion-index=0")
        return next((pod["status"]["podIP"] for pod in heads if pod["status"]["phase"] == "Running"), None)

    head = lab.kube.wait("the head", address, 120, tell=lambda: lab.story(waiting))
    join = f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN=0000 python3 -c \"import ray; ray.init(address='{head}:6379')\""
    # Ray retries for minutes with a wrong token (not reported), but its first answer is enough.
    command = ["bash", "-c", f"grep -m1 -e InvalidAuthToken -e Connected <(timeout 60 env {join} 2>&1)"]
    assert "InvalidAuthToken" in lab.run_pod("foreigner", lab.installed.images["trainer"], command)


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


@pytest.mark.long("faults")
def test_a_process_that_the_kernel_kills_costs_a_checkpoint_interval_and_lowers_what_is_needed(lab: Lab) -> None:
    """Only a process dies, as with cgroup v1 or the kubelet's singleProcessOOMKill: no status says OOMKilled."""
    name = "greedy"
    lab.pretrain(name, training=LONG)
    reached = lab.checkpoint_beyond(name, 0)
    (pod,) = lab.list("pods", f"driftloop.dev/job={name},batch.kubernetes.io/job-completion-index=1")
    eater = ("python3", "-c", "b'x' * (8 << 30)")
    with suppress(KubectlError):  # it is killed, or the worker and then the pod
        lab.kube.run("exec", "-n", lab.namespace, pod["metadata"]["name"], "--", *eater)

    status = lab.phase(name, "Succeeded")["status"]

    (rung,) = status["adjustments"]
    assert rung["reason"] == "OutOfMemory"
    assert rung["message"].startswith("the kernel ended a process of this pod")
    assert rung["perDeviceTrainBatchSize"] == 8  # 32 rows a step, two workers: half of 16
    assert lab.train_result(name).resumed_from_step >= reached
