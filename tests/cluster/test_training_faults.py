"""Pods and nodes lost while a model is trained: it goes on from the last checkpoint."""

from collections.abc import Iterator

import pytest

from cluster.lab import Lab
from testcluster import wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SAVE_STEPS = 20
LONG = {"maxSteps": 400, "saveSteps": SAVE_STEPS}
ENDLESS = {"maxSteps": 100_000, "saveSteps": 1000}  # for what is deleted while it trains


@pytest.mark.parametrize(("index", "who"), [("1", "worker"), ("0", "head")])
def test_a_lost_pod_costs_at_most_one_checkpoint_interval(lab: Lab, index: str, who: str) -> None:
    name = f"lost-{who}"
    lab.pretrain(name, training={"method": "pretrain", **LONG})
    seen = lab.training_beyond(name, 60)
    pods = lab.list("pods", f"driftloop.dev/job={name},batch.kubernetes.io/job-completion-index={index}")
    victim = next(p for p in pods if p["status"]["phase"] == "Running")["metadata"]["name"]
    lab.kube.run("delete", "pod", victim, "-n", lab.namespace, "--grace-period=0", "--force", "--wait=false")
    lab.phase(name, "Succeeded", seconds=480)
    result = lab.train_result(name)
    assert result.steps == LONG["maxSteps"]
    assert result.resumed_from_step >= seen - SAVE_STEPS


@pytest.fixture
def node_without_operator(lab: Lab) -> Iterator[str]:
    """A node to lose: the operator's own is cordoned while the job is placed."""
    kept = lab.operator_pod()["spec"]["nodeName"]
    nodes = [node["metadata"]["name"] for node in lab.kube.list("nodes", lab.namespace)]
    lost = next(node for node in nodes if node != kept)
    lab.kube.run("cordon", kept)
    yield lost
    lab.installed.provider.heal_node(lost)
    lab.kube.run("uncordon", kept)
    lab.kube.run("wait", f"node/{lost}", "--for=condition=Ready", "--timeout=120s", timeout=130)


def test_a_lost_node_costs_at_most_one_checkpoint_interval(lab: Lab, node_without_operator: str) -> None:
    name = "lost-node"
    compute = {"nodes": 1, "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "3Gi"}}}
    lab.pretrain(name, training={"method": "pretrain", **LONG}, compute=compute)
    seen = lab.training_beyond(name, 60)
    lab.installed.provider.fail_node(node_without_operator)
    lab.kube.run("uncordon", lab.operator_pod()["spec"]["nodeName"])
    lab.phase(name, "Succeeded", seconds=480)
    result = lab.train_result(name)
    assert result.steps == LONG["maxSteps"]
    assert result.resumed_from_step >= seen - SAVE_STEPS
    pods = lab.list("pods", f"driftloop.dev/job={name},driftloop.dev/stage=train")
    done = next(pod for pod in pods if pod["status"]["phase"] == "Succeeded")
    assert done["spec"]["nodeName"] != node_without_operator


def test_more_nodes_than_join_ends_with_what_to_do_and_releases_all(lab: Lab) -> None:
    name = "too-many-nodes"
    compute = {"nodes": 3, "startupTimeoutSeconds": 20, "backoffLimit": 0}
    lab.pretrain(name, compute=compute)
    job = lab.phase(name, "Failed", seconds=300)
    message = next(c["message"] for c in job["status"]["conditions"] if c["type"] == "Failed")
    assert "compute.nodes" in message, message
    wait.until(
        lambda: (
            not [
                p
                for p in lab.list("pods", f"driftloop.dev/job={name}")
                if p["status"]["phase"] in ("Running", "Pending")
            ]
        ),
        "all pods released",
        60,
    )


def test_a_suspended_job_keeps_its_checkpoints_and_resumes_from_them(lab: Lab) -> None:
    name = "suspended"
    lab.pretrain(name, training={"method": "pretrain", **LONG})
    seen = lab.training_beyond(name, 60)
    lab.kube.run("patch", "finetunejob", name, "-n", lab.namespace, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    lab.phase(name, "Suspended", seconds=90)
    wait.until(lambda: not lab.list("pods", f"driftloop.dev/job={name},driftloop.dev/stage=train"), "pods gone", 90)
    lab.kube.run("patch", "finetunejob", name, "-n", lab.namespace, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    job = lab.phase(name, "Succeeded", seconds=480)
    assert job["status"]["attempt"] == 2
    assert lab.train_result(name).resumed_from_step >= seen - SAVE_STEPS


def test_a_foreign_pod_is_refused_by_ray_itself(lab: Lab) -> None:
    name = "guarded"
    lab.pretrain(name, training={"method": "pretrain", **ENDLESS})
    lab.training_beyond(name, 1)
    pods = lab.list("pods", f"driftloop.dev/job={name},batch.kubernetes.io/job-completion-index=0")
    head = next(p for p in pods if p["status"]["phase"] == "Running")["status"]["podIP"]
    code = f"import ray; ray.init(address='{head}:6379')"
    # Ray tries again for minutes; its first answer is what counts.
    command = ["timeout", "30", "env", "RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=0000", "python3", "-c", code]
    assert "InvalidAuthToken" in lab.run_pod("foreigner", lab.installed.images["trainer"], command)
    lab.kube.run("delete", "finetunejob", name, "-n", lab.namespace)
    wait.until(lambda: not lab.list("jobs", f"driftloop.dev/job={name}"), "the job's Jobs gone", 60)
    wait.until(lambda: not lab.list("pods", f"driftloop.dev/job={name}"), "the job's pods gone", 90)
