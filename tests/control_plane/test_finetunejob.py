"""The whole chain on a real API server, from a FineTuneJob to an Approved ModelVersion. The test plays the kubelet."""

import json
from typing import Any

import pytest

from control_plane.harness import Cluster, StartOperator, eventually
from driftloop.contract.names import EXIT_BAD_INPUT
from driftloop.contract.result import AnyResult, StageError, encode
from driftloop.contract.task import TrainTask
from driftloop.controller.pods.jobs import task_of
from driftloop.controller.vocabulary.labels import APPROVE_VERSION, STAGE
from unit.controller.stages import EARLIER, evaluated, facts, job, prepared, trained, version

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "shared"},
    "spec": {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "resources": {"requests": {"storage": "1Gi"}},
    },
}


def body(name: str = "tune", **spec: Any) -> Any:
    """A FineTuneJob to create."""
    found = job(**spec)
    return found | {"metadata": {"name": name}}


def stage(cluster: Cluster, name: str) -> Any:
    """Wait for a Job of a stage and return the newest."""
    return eventually(lambda: [found for found in cluster.list("jobs") if found["metadata"]["labels"][STAGE] == name])[
        -1
    ]


def make_pod(cluster: Cluster, owner: Any) -> str:
    """Create the pod with index 0 of a Job, like the Job controller."""
    metadata, template = owner["metadata"], owner["spec"]["template"]
    name = f"{metadata['name']}-0"
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    cluster.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": template["metadata"]["labels"] | {"batch.kubernetes.io/job-completion-index": "0"},
                "ownerReferences": [reference | {"controller": True, "blockOwnerDeletion": True}],
            },
            "spec": template["spec"],
        }
    )
    return name


def end(cluster: Cluster, owner: Any, container: str, code: int, message: str) -> None:
    """End the pod and its Job."""
    end_pod(cluster, owner, container, {"exitCode": code, "message": message, "reason": "Completed"})
    types = ("FailureTarget", "Failed") if code else ("SuccessCriteriaMet", "Complete")
    conditions = [{"type": type_, "status": "True", "lastTransitionTime": EARLIER, "reason": "x"} for type_ in types]
    job_status: dict[str, Any] = {"startTime": EARLIER, "conditions": conditions}
    job_status |= {"failed": 1} if code else {"succeeded": 1, "completionTime": EARLIER}
    cluster.patch_status("job", owner["metadata"]["name"], job_status)


def end_pod(cluster: Cluster, owner: Any, container: str, terminated: Any) -> None:
    """End the container of the pod with index 0, like the kubelet."""
    pod = make_pod(cluster, owner)
    status = {
        "name": container,
        "image": "x",
        "imageID": "x",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": terminated | {"finishedAt": EARLIER}},
    }
    phase = "Failed" if terminated["exitCode"] else "Succeeded"
    cluster.patch_status("pod", pod, {"phase": phase, "containerStatuses": [status]})


def finish(cluster: Cluster, name: str, result: AnyResult) -> None:
    """Let the stage succeed."""
    end(cluster, stage(cluster, name), name, 0, encode(result))


def reason(cluster: Cluster, type_: str, name: str = "tune", kind: str = "ftj") -> str | None:
    """The reason of a condition if it is True."""
    found = cluster.condition(kind, name, type_) or {}
    return found.get("reason") if found.get("status") == "True" else None


def phase(cluster: Cluster, kind: str, name: str) -> Any:
    """The phase of a custom resource."""
    return (cluster.get(kind, name).get("status") or {}).get("phase")


def revisions(cluster: Cluster) -> set[str]:
    """A value that changes with each write of any object that the operator may write."""
    kinds = ("ftj", "mver", "jobs", "services", "networkpolicies", "secrets")
    return {found["metadata"]["resourceVersion"] for kind in kinds for found in cluster.list(kind)}


def test_a_job_becomes_an_approved_version(cluster: Cluster, operators: StartOperator) -> None:
    operators().start().ready()
    floor = {"name": "new", "kind": "floor", "items": "data", "minimum": 0.9}
    cluster.create(CLAIM, body(evaluation={"suites": [floor]}))
    finish(cluster, "prepare", prepared())
    finish(cluster, "train", trained())
    eventually(lambda: reason(cluster, "Complete") == "Succeeded")
    made = cluster.get("ftj", "tune")["status"]["version"]
    candidate = cluster.get("mver", made)["spec"]["artefact"]["digest"]
    finish(cluster, "evaluate", evaluated(candidate))
    eventually(lambda: phase(cluster, "mver", made) == "Approved")
    found = cluster.get("mver", made)
    assert found["spec"]["lineage"]["jobUid"] == cluster.get("ftj", "tune")["metadata"]["uid"]
    assert [gate["verdict"] for gate in found["status"]["gates"]] == ["Pass", "Pass", "Pass"]
    told = [event["reason"] for event in cluster.list("events.events.k8s.io")]
    assert {"Preparing", "Training", "Succeeded", "Evaluating", "Approved"} <= set(told)
    assert len(told) == len(set(told))


def test_an_operator_that_starts_anew_writes_nothing_and_goes_on(cluster: Cluster, operators: StartOperator) -> None:
    first = operators().start().ready()
    cluster.create(CLAIM, body())
    finish(cluster, "prepare", prepared())
    eventually(lambda: phase(cluster, "ftj", "tune") == "Training")
    stage(cluster, "train")
    eventually(lambda: first.metric("driftloop_queue_depth") == 0)
    first.stop(kill=True)
    before = revisions(cluster)
    second = operators(identity="b").start().ready()
    eventually(lambda: second.metric("driftloop_reconcile_total") > 0 and second.metric("driftloop_queue_depth") == 0)
    assert revisions(cluster) == before
    finish(cluster, "train", trained())
    eventually(lambda: phase(cluster, "ftj", "tune") == "Succeeded")
    assert len(cluster.list("jobs")) == 3  # prepare, train, and evaluate of the version


def test_a_stage_that_fails_ends_the_job_with_its_own_reason(cluster: Cluster, operators: StartOperator) -> None:
    operators().start().ready()
    cluster.create(CLAIM, body())
    error = StageError(reason="WrongColumn", message="source rows: no column prompt; the file has 'text'")
    end(cluster, stage(cluster, "prepare"), "prepare", EXIT_BAD_INPUT, encode(error))
    eventually(lambda: reason(cluster, "Failed") == "WrongColumn")
    warnings = [event for event in cluster.list("events.events.k8s.io") if event["type"] == "Warning"]
    assert [(event["reason"], event["note"]) for event in warnings] == [(error.reason, error.message)]


def test_a_claim_is_waited_for(cluster: Cluster, operators: StartOperator) -> None:
    operators().start().ready()
    cluster.create(body())
    eventually(lambda: reason(cluster, "Stalled") == "ClaimNotFound")
    cluster.create(CLAIM)
    stage(cluster, "prepare")
    eventually(lambda: reason(cluster, "Reconciling") == "Preparing")


def test_a_read_write_once_claim_is_refused_for_two_nodes(cluster: Cluster, operators: StartOperator) -> None:
    operators().start().ready()
    once = json.loads(json.dumps(CLAIM))
    once["spec"]["accessModes"] = ["ReadWriteOnce"]
    cluster.create(once, body())
    eventually(lambda: reason(cluster, "Stalled") == "NeedsReadWriteMany")
    assert cluster.list("jobs") == []


def test_a_model_that_does_not_fit_takes_no_node(cluster: Cluster, operators: StartOperator) -> None:
    operators().start().ready()
    cluster.create(CLAIM, body())
    finish(cluster, "prepare", prepared(model=facts(8_000_000_000)))
    eventually(lambda: reason(cluster, "Failed") == "DoesNotFit")
    assert [found["metadata"]["labels"][STAGE] for found in cluster.list("jobs")] == ["prepare"]


def test_suspending_takes_the_pods_away_and_resuming_is_the_next_attempt(
    cluster: Cluster, operators: StartOperator
) -> None:
    operators().start().ready()
    cluster.create(CLAIM, body())
    finish(cluster, "prepare", prepared())
    stage(cluster, "train")
    cluster.kubectl("patch", "ftj", "tune", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    eventually(lambda: phase(cluster, "ftj", "tune") == "Suspended")
    eventually(lambda: [found["metadata"]["labels"][STAGE] for found in cluster.list("jobs")] == ["prepare"])
    cluster.kubectl("patch", "ftj", "tune", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    assert stage(cluster, "train")["metadata"]["labels"]["driftloop.dev/attempt"] == "2"


def test_a_training_that_the_kernel_killed_goes_on_with_fewer_rows_at_once(
    cluster: Cluster, operators: StartOperator
) -> None:
    operator = operators().start().ready()
    cluster.create(CLAIM, body())
    finish(cluster, "prepare", prepared())
    first = stage(cluster, "train")
    end_pod(cluster, first, "train", {"exitCode": 137, "reason": "OOMKilled"})
    eventually(
        lambda: (cluster.get("ftj", "tune")["status"].get("adjustments") or [{}])[0].get("reason") == "OOMKilled"
    )
    operator.stop(kill=True)  # with some or all of its work undone
    operators(identity="b").start().ready()
    eventually(lambda: cluster.get("ftj", "tune")["status"]["attempt"] == 2)
    second = stage(cluster, "train")
    assert second["metadata"]["labels"]["driftloop.dev/attempt"] == "2"
    before, after = task_of(first), task_of(second)
    assert isinstance(before, TrainTask)
    assert isinstance(after, TrainTask)
    assert (before.per_device_train_batch_size, after.per_device_train_batch_size) == (16, 8)
    status = cluster.get("ftj", "tune")["status"]
    assert status["plan"]["gradientAccumulationSteps"] == 2 * before.gradient_accumulation_steps
    assert [entry["perDeviceTrainBatchSize"] for entry in status["adjustments"]] == [8]
    [event] = [event for event in cluster.list("events.events.k8s.io") if event["reason"] == "LoweringMemory"]
    assert "at most 8 instead of 16 rows per forward pass" in event["note"]


def test_a_job_made_again_under_its_name_is_another_job(cluster: Cluster, operators: StartOperator) -> None:
    operators().start().ready()
    cluster.create(CLAIM, body())
    first = stage(cluster, "prepare")
    cluster.kubectl("delete", "ftj", "tune")
    cluster.create(body())
    eventually(lambda: len(cluster.list("jobs")) == 2)
    second = next(found for found in cluster.list("jobs") if found["metadata"]["uid"] != first["metadata"]["uid"])
    assert second["metadata"]["name"] != first["metadata"]["name"]
    end(cluster, first, "prepare", 0, encode(prepared()))
    assert phase(cluster, "ftj", "tune") == "Preparing"


def test_an_imported_version_that_nothing_compares_is_evaluated_and_waits_for_a_person(
    cluster: Cluster, operators: StartOperator
) -> None:
    operators().start().ready()
    imported = version("imported")
    cluster.create(CLAIM, imported | {"metadata": {"name": "imported"}})
    finish(cluster, "evaluate", evaluated(imported["spec"]["artefact"]["digest"]))
    eventually(lambda: phase(cluster, "mver", "imported") == "AwaitingApproval")
    cluster.kubectl("annotate", "mver", "imported", f"{APPROVE_VERSION}=imported")
    eventually(lambda: phase(cluster, "mver", "imported") == "Approved")
