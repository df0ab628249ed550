"""The commands as processes with the rights of the pipeline's Role. The tests play the operator."""

import json
import signal
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.commands import APPROVER, ROLE, Ended, Pipeline, ended, pipeline
from control_plane.harness import Cluster, eventually
from control_plane.objects import finetunejob, inferenceservice, modelversion
from control_plane.serving import digest

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

V1, V2 = "family-v1", "family-v2"


@pytest.fixture
def cli(cluster: Cluster, tmp_path: Path) -> Pipeline:
    return pipeline(cluster, tmp_path)


def trained(cluster: Cluster, job: str, version: str, phase: str, message: str = "4 of 4 passed") -> None:
    """Play the operator: the job has created a version, which is judged."""
    ready = {"type": "Ready", "status": "True" if phase == "Approved" else "False", "reason": phase, "message": message}
    cluster.create(modelversion(version))
    cluster.patch_status("mver", version, {"phase": phase, "gateSummary": message, "conditions": [dated(ready)]})
    cluster.patch_status("ftj", job, {"observedGeneration": 1, "phase": "Succeeded", "version": version})


def dated(condition: Any) -> Any:
    return condition | {"lastTransitionTime": "2026-01-01T00:00:00Z"}


def revision(version: str) -> Any:
    return {"revision": f"r-{version}", "version": version, "digest": digest(version)}


def record_of_rollback(service: str, version: str) -> Any:
    """The Deployment that the operator keeps."""
    labels = {"service": service, "version": version, "revision": f"r-{version}", "role": "failed"}
    labels = {f"driftloop.dev/{name}": value for name, value in labels.items()}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "engine", "image": "server:test"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": version,
            "labels": labels,
            "annotations": {"driftloop.dev/failed": "CanaryWorse: 9 % of its requests failed"},
        },
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod},
    }


# validate


def test_the_server_checks_rules_across_fields(cli: Pipeline, cluster: Cluster) -> None:
    path = cli.write(finetunejob("tune"))
    assert cli.run("validate", "--server", "-f", path) == Ended(0, f"{path}: FineTuneJob tune: valid\n", "")
    wrong = finetunejob("tune")
    wrong["spec"]["training"] = {"adapter": {"type": "lora", "effectiveRank": 0.4}}
    path = cli.write(wrong)
    assert cli.run("validate", "-f", path).code == 0, "without a cluster nobody knows this rule"
    code, _, err = cli.run("validate", "--server", "-f", path)
    assert code == 2
    assert f"{path}: FineTuneJob tune: spec.training.adapter.effectiveRank: " in err
    assert "effectiveRank is only for adapter osf: remove it" in err
    assert cluster.get("ftj", "tune") is None


def test_a_right_that_is_missing_is_told(cli: Pipeline) -> None:
    code, _, err = cli.run("validate", "--server", "-f", cli.write(inferenceservice("desk")))
    assert code == 4
    assert "forbidden" in err
    assert "deploy/pipeline" in err


# run


def test_a_job_is_run_until_its_version_is_approved(cli: Pipeline, cluster: Cluster) -> None:
    path = cli.write(finetunejob("tune"))
    process = cli.start("run", "-f", path, "--name", "tune-4f2a", "-o", "name", "--timeout", "2m")
    job = eventually(lambda: cluster.get("ftj", "tune-4f2a"))
    assert [each["manager"] for each in job["metadata"]["managedFields"]] == ["driftloop-cli"]
    progress = {"step": 3, "totalSteps": 4, "percent": 75, "eta": "9s"}
    training = {"observedGeneration": 1, "phase": "Training", "progress": progress}
    cluster.patch_status("ftj", "tune-4f2a", training)
    assert process.stderr is not None
    first = [process.stderr.readline(), process.stderr.readline()]
    trained(cluster, "tune-4f2a", V1, "Approved")
    code, out, err = ended(process)
    assert (code, out) == (0, f"{V1}\n")
    told = "".join(first) + err
    assert "FineTuneJob tune-4f2a: Training: step 3 of 4 [###############.....] 75 %, 9s left\n" in told
    assert f"ModelVersion {V1}: Approved: 4 of 4 passed\n" in told

    assert cli.run("run", "-f", path, "--name", "tune-4f2a", "-o", "name").out == f"{V1}\n", (
        "a repeated step follows it"
    )
    changed = finetunejob("tune")
    changed["spec"]["storage"] = "pvc://data/other"
    code, _, err = cli.run("run", "-f", cli.write(changed), "--name", "tune-4f2a")
    assert code == 2
    assert "storage is immutable: create a new FineTuneJob instead" in err


@pytest.mark.parametrize(("phase", "code"), [("Rejected", 1), ("AwaitingApproval", 5)])
def test_what_is_not_approved_is_not_good(cli: Pipeline, cluster: Cluster, phase: str, code: int) -> None:
    assert cli.run("run", "-f", cli.write(finetunejob("tune")), "--no-wait").code == 0
    trained(cluster, "tune", V1, phase, "retention: 12 of 80 items lost")
    found = cli.run("run", "-f", cli.write(finetunejob("tune")), "-o", "json")
    result = json.loads(found.out)
    assert (found.code, result["exitCode"]) == (code, code)
    assert "retention: 12 of 80 items lost" in result["message"]
    assert [each["kind"] for each in result["objects"]] == ["FineTuneJob", "ModelVersion"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_the_job_and_tells_how_to_go_on(
    cli: Pipeline, cluster: Cluster, number: int, code: int
) -> None:
    process = cli.start("run", "-f", cli.write(finetunejob("tune")))
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(number)
    found = ended(process)
    assert found.code == code
    assert f"driftloop wait job tune --for=judged -n {cluster.namespace}" in found.out
    assert cluster.get("ftj", "tune")
    trained(cluster, "tune", V1, "Approved")
    assert cli.run("wait", "job", "tune", "--for=judged", "-n", cluster.namespace).code == 0


# wait


def test_a_wait_survives_a_restart_of_the_api_server(cli: Pipeline, cluster: Cluster) -> None:
    cluster.create(finetunejob("tune"))
    process = cli.start("wait", "job", "tune", "--timeout", "2m")
    assert process.stderr is not None
    process.stderr.readline()
    cluster.plane.stop_apiserver()
    time.sleep(2)
    cluster.plane.start_apiserver()
    cluster.patch_status("ftj", "tune", {"observedGeneration": 1, "phase": "Succeeded", "version": V1})
    assert ended(process).code == 0


def test_a_promotion_is_waited_for(cli: Pipeline, cluster: Cluster) -> None:
    process = cli.start("wait", "service", "desk", "--version", V2, "--timeout", "2m")
    cluster.create(inferenceservice("desk"))
    status = {"observedGeneration": 1, "phase": "Canary", "stable": revision(V1), "candidate": revision(V2)}
    cluster.patch_status("dlsvc", "desk", status | {"traffic": "67/33"})
    time.sleep(1)
    assert process.poll() is None
    cluster.patch_status("dlsvc", "desk", {"phase": "Serving", "stable": revision(V2), "candidate": None})
    code, out, _ = ended(process)
    assert code == 0
    assert f"{V2} serves" in out


def test_a_rollback_is_told_also_if_it_came_before_the_wait(cli: Pipeline, cluster: Cluster) -> None:
    cluster.create(inferenceservice("desk"), record_of_rollback("desk", V2))
    status = {"observedGeneration": 1, "phase": "Serving", "stable": revision(V1), "failedRevisions": [f"r-{V2}"]}
    cluster.patch_status("dlsvc", "desk", status)
    code, out, _ = cli.run("wait", "service", "desk", "--version", V2)
    assert (code, out) == (1, f"service desk: {V2} was rolled back: CanaryWorse: 9 % of its requests failed\n")


def test_a_wait_is_bounded(cli: Pipeline) -> None:
    code, out, _ = cli.run("wait", "version", V1, "--timeout", "2s")
    assert code == 3
    assert "there is no such ModelVersion yet" in out


def test_a_server_that_does_not_answer_is_told(cli: Pipeline) -> None:
    config = yaml.safe_load(cli.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    cli.kubeconfig.write_text(yaml.safe_dump(config))
    code, out, _ = cli.run("wait", "job", "tune")
    assert code == 4
    assert "check the server in the kubeconfig" in out


# lineage, diff, approve, with the rights of deploy/pipeline/approver.yaml


@pytest.fixture
def approver(cluster: Cluster, tmp_path: Path) -> Pipeline:
    cluster.kubectl("apply", "-f", str(APPROVER))
    return Pipeline(cluster, tmp_path, "driftloop-approver")


def test_a_version_is_approved(cli: Pipeline, approver: Pipeline, cluster: Cluster) -> None:
    cluster.create(modelversion(V1))
    code, out, _ = approver.run("approve", V1)
    assert (code, out) == (1, f"version {V1}: is Pending: only a version in phase AwaitingApproval can be approved\n")
    cluster.patch_status("mver", V1, {"phase": "AwaitingApproval"})
    code, out, err = cli.run("approve", V1)
    assert (code, "forbidden" in err) == (4, True), "the pipeline can't approve its own version"
    process = approver.start("approve", V1, "--timeout", "2m")
    eventually(lambda: cluster.get("mver", V1)["metadata"].get("annotations") == {"driftloop.dev/approve": V1})
    cluster.patch_status("mver", V1, {"phase": "Approved", "gateSummary": "approved by the annotation"})
    assert ended(process).code == 0
    assert approver.run("approve", V1)[:2] == (0, f"version {V1}: is Approved already\n")


def test_lineage_and_differences_are_read_with_few_rights(approver: Pipeline, cluster: Cluster) -> None:
    first, second = modelversion(V1), modelversion(V2)
    second["spec"]["lineage"] = {"parent": V1, "job": "tune", "trigger": {"kind": "Drift", "service": "desk"}}
    cluster.create(first, second)
    code, out, _ = approver.run("lineage", V2)
    assert code == 0
    assert "  job          tune (was deleted)\n  asked for by Drift: of service desk\n" in out
    assert f"\n{V1}: Pending\n" in out
    code, out, _ = approver.run("diff", V1, V2, "-o", "json")
    assert code == 0
    assert {change["section"] for change in json.loads(out)["changes"]} == {"data", "settings", "artefact"}
    assert approver.run("lineage", "none").code == 1


# kubectl driftloop


def test_kubectl_finds_the_plugin(cli: Pipeline, cluster: Cluster) -> None:
    cluster.create(modelversion(V1))
    found = cli.kubectl("driftloop", "wait", "version", V1, "--timeout=1s")
    assert found.returncode == 3
    assert f"kubectl driftloop wait version {V1} --for=approved -n {cluster.namespace}" in found.stdout
    assert "usage: kubectl driftloop validate" in cli.kubectl("driftloop", "validate", "--help").stdout
    assert "kubectl-driftloop" in cli.kubectl("plugin", "list").stdout


# deploy/pipeline/role.yaml

NEEDED = {
    ("finetunejobs", "get"): ("wait", "job", "pending"),
    ("finetunejobs", "watch"): ("wait", "job", "pending"),
    ("finetunejobs", "create"): ("run", "--no-wait", "-f", "manifest.yaml"),
    ("finetunejobs", "patch"): ("run", "--no-wait", "-f", "manifest.yaml"),
    ("modelversions", "get"): ("wait", "version", V1),
    ("modelversions", "watch"): ("wait", "version", V1),
    ("inferenceservices", "get"): ("wait", "service", "desk"),
    ("inferenceservices", "watch"): ("wait", "service", "desk"),
    ("deployments", "list"): ("wait", "service", "desk", "--version", V2),
}


def test_each_right_of_the_role_is_needed(cli: Pipeline, cluster: Cluster) -> None:
    """The other tests show that the Role has all rights that the commands need."""
    role = next(each for each in yaml.safe_load_all(ROLE.read_text()) if each["kind"] == "Role")
    rights = {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}
    assert rights == set(NEEDED)
    cluster.create(finetunejob("pending"), modelversion(V1), inferenceservice("desk"))
    cli.write(finetunejob("tune"))
    processes = []
    for number, (right, command) in enumerate(NEEDED.items()):
        account = f"without-{number}"
        cluster.create(*account_without(role, right, account, cluster.namespace))
        processes.append((right, Pipeline(cluster, cli.folder, account).start(*command)))
    for right, process in processes:
        code, out, err = ended(process)
        assert (right, code) == (right, 4)
        assert "forbidden" in out + err


def account_without(role: Any, right: tuple[str, str], account: str, namespace: str) -> list[Any]:
    """An account with the rights of the Role except one."""
    rules = []
    for rule in deepcopy(role["rules"]):
        for name in rule["resources"]:
            verbs = [verb for verb in rule["verbs"] if (name, verb) != right]
            if verbs:
                rules.append({"apiGroups": rule["apiGroups"], "resources": [name], "verbs": verbs})
    metadata = {"name": account}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account}
    api = "rbac.authorization.k8s.io/v1"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": api, "kind": "Role", "metadata": metadata, "rules": rules},
        {"apiVersion": api, "kind": "RoleBinding", "metadata": metadata, "roleRef": reference, "subjects": [subject]},
    ]
