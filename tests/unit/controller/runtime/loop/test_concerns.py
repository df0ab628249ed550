"""Whom a change concerns."""

from typing import Any

from driftloop.api.base import API_VERSION
from driftloop.controller.kinds.registry import KINDS
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.loop.concerns import keys_for
from driftloop.controller.vocabulary.labels import JOB, SERVICE, STAGE, VERSION
from driftloop.controller.vocabulary.plan import Key

CUSTOM = ("FineTuneJob", "ModelVersion", "InferenceService")


def obj(kind: str, name: str, owner: Any = None, spec: Any = None, phase: str = "", **labels: str) -> Any:
    metadata: dict[str, Any] = {"name": name, "namespace": "ns", "uid": f"{kind}-{name}", "resourceVersion": "1"}
    metadata["labels"] = {JOB.replace("job", key): value for key, value in labels.items()}
    if owner:
        metadata["ownerReferences"] = [
            {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
                "controller": True,
            }
        ]
    version = API_VERSION if kind in CUSTOM else "batch/v1"
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec or {}, "status": {"phase": phase}}


def keys(changed: Any, *others: Any) -> set[tuple[str, str]]:
    caches = Caches()
    for each in (changed, *others):
        caches.put(each)
    return {(key.kind, key.name) for key in keys_for(changed, KINDS.values(), caches)}


def test_a_pod_concerns_the_owner_of_its_job() -> None:
    parent = obj("FineTuneJob", "parent")
    job = obj("Job", "parent-train", owner=parent)
    assert keys(obj("Pod", "pod", owner=job), job, parent) == {("FineTuneJob", "parent")}


def test_a_pod_whose_owner_is_not_cached_concerns_whom_its_labels_name() -> None:
    replica_set = obj("ReplicaSet", "support-abc")
    assert keys(obj("Pod", "a", owner=replica_set, service="support", stage="serve", version="v")) == {
        ("InferenceService", "support")
    }
    assert keys(obj("Pod", "b", version="v", stage="evaluate", job="j")) == {("ModelVersion", "v")}
    assert keys(obj("Pod", "w", service="support", stage="serve-worker")) == {("InferenceService", "support")}
    assert keys(obj("Pod", "x", version="v", stage="evaluate-worker")) == {("ModelVersion", "v")}
    assert keys(obj("Pod", "c", job="j", stage="train")) == {("FineTuneJob", "j")}
    assert keys(obj("Pod", "d", job="j", stage="no-such-stage")) == set()


def test_an_owner_that_is_no_controller_is_not_concerned() -> None:
    parent = obj("FineTuneJob", "parent")
    child = obj("Job", "job", owner=parent)
    child["metadata"]["ownerReferences"][0]["controller"] = False
    assert keys(child, parent) == set()


def test_a_job_that_a_service_made_concerns_the_service() -> None:
    assert keys(obj("FineTuneJob", "j", service="support")) == {("FineTuneJob", "j"), ("InferenceService", "support")}


def test_a_version_concerns_services_of_its_family_and_jobs_that_wait_for_it() -> None:
    def job(name: str, phase: str, start: Any) -> Any:
        return obj("FineTuneJob", name, spec={"model": {"from": start}}, phase=phase)

    version = obj("ModelVersion", "v", spec={"family": "f"}, job="made-it")
    others = [
        obj("InferenceService", "follows", spec={"model": {"family": "f"}}),
        obj("InferenceService", "other", spec={"model": {"family": "g"}}),
        job("by-family", "Pending", {"family": "f"}),
        job("by-name", "", {"versionRef": {"name": "v"}}),
        job("finished", "Succeeded", {"family": "f"}),
        job("elsewhere", "Pending", {"uri": "hf://x"}),
    ]
    assert keys(version, *others) == {
        ("ModelVersion", "v"),
        ("FineTuneJob", "made-it"),
        ("InferenceService", "follows"),
        ("FineTuneJob", "by-family"),
        ("FineTuneJob", "by-name"),
    }


def test_a_service_concerns_its_familys_versions_and_jobs_that_start_from_it() -> None:
    service = obj("InferenceService", "s", spec={"model": {"family": "f"}})
    others = [
        obj("ModelVersion", "v", spec={"family": "f"}),
        obj("ModelVersion", "w", spec={"family": "g"}),
        obj("FineTuneJob", "j", spec={"model": {"from": {"serving": {"name": "s"}}}}),
    ]
    assert keys(service, *others) == {("InferenceService", "s"), ("ModelVersion", "v"), ("FineTuneJob", "j")}


def test_a_deployment_concerns_its_service_and_the_version_it_serves() -> None:
    service = obj("InferenceService", "s")
    deployment = obj("Deployment", "s-1", owner=service, version="v")
    assert keys(deployment, service) == {("InferenceService", "s"), ("ModelVersion", "v")}


def test_a_claim_concerns_those_that_name_it_and_no_longer_name() -> None:
    claim = obj("PersistentVolumeClaim", "data")
    others = [
        obj("FineTuneJob", "uses", spec={"storage": "pvc://data/out"}),
        obj("FineTuneJob", "whole", spec={"data": {"sources": [{"uri": "pvc://data"}]}}),
        obj("FineTuneJob", "longer", spec={"storage": "pvc://data-2/out"}),
    ]
    assert keys(claim, *others) == {("FineTuneJob", "uses"), ("FineTuneJob", "whole")}


def test_an_object_of_any_shape_stops_nothing() -> None:
    odd = obj("FineTuneJob", "odd")
    odd["spec"] = {"model": "text"}
    odd["status"] = None
    version = obj("ModelVersion", "v", spec={"family": "f"})
    assert keys(version, odd) == {("ModelVersion", "v")}
    assert Key("ModelVersion", "ns", "v") in keys_for(version, KINDS.values(), Caches())


def test_the_labels_are_the_contracts() -> None:
    assert {SERVICE, STAGE, VERSION} == {JOB.replace("job", each) for each in ("service", "stage", "version")}


def test_an_adapter_concerns_the_versions_onto_which_it_is_merged() -> None:
    base, other = (obj("ModelVersion", name, spec={"artefact": {"uri": f"pvc://v/{name}"}}) for name in ("base", "v2"))
    adapter = obj("ModelVersion", "adapter", spec={"artefact": {"uri": "pvc://v/a", "bases": ["pvc://v/base"]}})
    assert keys(adapter, base, other) == {("ModelVersion", "adapter"), ("ModelVersion", "base")}
    assert keys(base, adapter, other) == {("ModelVersion", "base")}


def test_a_version_concerns_the_jobs_that_name_it_as_their_anchor() -> None:
    version = obj("ModelVersion", "v1", spec={"family": "f"})
    waits = obj("FineTuneJob", "waits", spec={"evaluation": {"anchor": "v1"}}, phase="Pending")
    other = obj("FineTuneJob", "other", spec={"evaluation": {"anchor": "v2"}}, phase="Pending")
    assert keys(version, waits, other) == {("ModelVersion", "v1"), ("FineTuneJob", "waits")}
