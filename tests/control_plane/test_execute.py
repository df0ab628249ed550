"""Each action of a plan on a real API server: what it writes, what it keeps, and that a repetition writes nothing."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from control_plane.harness import Cluster
from control_plane.objects import finetunejob
from driftloop.api.base import API_VERSION
from driftloop.api.finetunejob import FineTuneJobStatus
from driftloop.controller.runtime.kube.api import Api, credentials
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.kube.events import Recorder
from driftloop.controller.runtime.kube.resources import RESOURCES, WATCHED
from driftloop.controller.runtime.loop.execute import Executor, Halted, Stale
from driftloop.controller.vocabulary.naming import owner_reference
from driftloop.controller.vocabulary.plan import (
    Action,
    Adjust,
    Annotate,
    Apply,
    Create,
    Delete,
    Event,
    FailPod,
    Key,
    Label,
    NameTaken,
    Plan,
)

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]


class Runtime:
    """An executor whose caches are filled only on request."""

    def __init__(self, cluster: Cluster, api: Api) -> None:
        self.cluster = cluster
        self.api = api
        self.caches = Caches()
        self.changed: list[Any] = []
        self.executor = Executor(api, self.caches, Recorder(api, "test"), self.changed.append)

    async def parent(self, name: str = "one") -> Any:
        """A FineTuneJob as it is on the API server."""
        await self.sync()
        return self.caches.get("FineTuneJob", self.cluster.namespace, name)

    async def sync(self) -> None:
        """Fill the caches with a LIST."""
        for resource in WATCHED:
            async for page, _ in self.api.pages(resource, self.cluster.namespace, resource.selector):
                for obj in page:
                    self.caches.put(obj)

    async def run(self, *actions: Action, **more: Any) -> bool:
        """Execute a plan for the FineTuneJob `one`."""
        try:
            return (await self.executor.execute(await self.parent(), Plan(actions, **more), FineTuneJobStatus)).wrote
        except Halted as halted:
            raise halted.error from None


@pytest.fixture
async def runtime(cluster: Cluster) -> AsyncIterator[Runtime]:
    cluster.create(finetunejob("one"))
    api = Api(await credentials(str(cluster.plane.kubeconfig)))
    yield Runtime(cluster, api)
    await api.close()


def child(runtime: Runtime, parent: Any, kind: str, name: str, spec: Any = None, **more: Any) -> Any:
    return {
        "apiVersion": RESOURCES[kind].api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": runtime.cluster.namespace,
            "ownerReferences": [owner_reference(parent)],
        },
        **({"spec": spec} if spec else {}),
        **more,
    }


def template(**labels: str) -> Any:
    containers = [{"name": "main", "image": "i", "resources": {"limits": {"cpu": "1000m"}}}]
    return {"metadata": {"labels": {"app": "x", **labels}}, "spec": {"containers": containers}}


def deployment(runtime: Runtime, parent: Any) -> Any:
    return child(
        runtime,
        parent,
        "Deployment",
        "d",
        {"replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": template()},
    )


async def test_created_once_and_found_again_without_a_cache(runtime: Runtime) -> None:
    parent = await runtime.parent()
    body = deployment(runtime, parent)
    assert await runtime.run(Create(body))
    live = runtime.cluster.get("deployment", "d")
    assert live["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "driftloop"
    assert not await runtime.run(Create(body))
    blind = Runtime(runtime.cluster, runtime.api)
    assert (
        await blind.executor.execute(parent, Plan((Create(body),)), FineTuneJobStatus)
    ).wrote  # the cache was updated
    assert runtime.cluster.get("deployment", "d")["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]


async def test_a_secret_is_created_and_never_read(runtime: Runtime) -> None:
    parent = await runtime.parent()
    first = child(runtime, parent, "Secret", "s", stringData={"token": "first"})
    assert await runtime.run(Create(first))
    assert not await runtime.run(Create(first | {"stringData": {"token": "second"}}))
    assert runtime.cluster.kubectl("get", "secret", "s", "-o", "jsonpath={.data.token}") == "Zmlyc3Q="


async def test_a_label_that_was_taken_off_comes_back(runtime: Runtime) -> None:
    body = deployment(runtime, await runtime.parent())
    await runtime.run(Create(body))
    runtime.cluster.kubectl("label", "deployment", "d", "app.kubernetes.io/managed-by-")
    blind = Runtime(runtime.cluster, runtime.api)
    assert await blind.run(Create(body))
    labels = runtime.cluster.get("deployment", "d")["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "driftloop"


async def test_apply_writes_what_is_new_and_then_nothing(runtime: Runtime) -> None:
    parent = await runtime.parent()

    def policy(port: int) -> Apply:
        ingress = [{"ports": [{"port": port}]}, {"from": [{"podSelector": {"matchLabels": {"a": "b"}}}]}]
        spec = {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Ingress"], "ingress": ingress}
        return Apply(child(runtime, parent, "NetworkPolicy", "n", spec))

    budget = {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}
    service = {"selector": {"a": "b"}, "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}
    rest = (
        Apply(child(runtime, parent, "PodDisruptionBudget", "p", budget)),
        Apply(child(runtime, parent, "Service", "s", service)),
        Apply(deployment(runtime, parent)),
    )
    assert await runtime.run(policy(80), *rest)
    before = runtime.cluster.revisions()
    assert not await runtime.run(policy(80), *rest)
    assert not await Runtime(runtime.cluster, runtime.api).run(policy(80), *rest)
    assert runtime.cluster.revisions() == before
    assert await runtime.run(policy(90), *rest)
    changed = {name for name, revision in runtime.cluster.revisions().items() if before[name] != revision}
    assert changed == {"NetworkPolicy/n"}


async def test_what_others_own_is_not_taken_over(runtime: Runtime) -> None:
    parent = await runtime.parent()
    runtime.cluster.create(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}
    )
    body = child(runtime, parent, "Service", "s", {"ports": [{"port": 80}]})
    for action in (Apply(body), Create(body)):
        with pytest.raises(NameTaken, match="Service s exists already"):
            await runtime.run(action)
    assert runtime.cluster.get("service", "s")["spec"]["ports"][0]["port"] == 1


async def test_adjust_and_label_change_what_they_name(runtime: Runtime) -> None:
    await runtime.run(Create(deployment(runtime, await runtime.parent())))
    uid = runtime.cluster.get("deployment", "d")["metadata"]["uid"]
    adjust = Adjust(runtime.cluster.namespace, "d", uid, 3, {"role": "stable"}, {"note": "x"})
    key = Key("FineTuneJob", runtime.cluster.namespace, "one")
    label = Label(key, runtime.cluster.get("ftj", "one")["metadata"]["uid"], {"in-use": "true"})
    assert await runtime.run(adjust, label)
    assert not await runtime.run(adjust, label)
    live = runtime.cluster.get("deployment", "d")
    assert live["spec"]["replicas"] == 3
    assert live["metadata"]["labels"]["role"] == "stable"
    assert runtime.cluster.get("ftj", "one")["metadata"]["labels"] == {"in-use": "true"}
    with pytest.raises(Stale):
        await runtime.run(Adjust(runtime.cluster.namespace, "d", "another-uid", 9))
    with pytest.raises(Stale):
        await runtime.run(Label(key, "another-uid", {"in-use": None}))
    assert await runtime.run(replace(label, labels={"in-use": None}))
    assert "labels" not in runtime.cluster.get("ftj", "one")["metadata"]


async def test_a_job_gets_annotations_beside_those_of_others(runtime: Runtime) -> None:
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
    spec = {"suspend": True, "template": {"spec": pod}}
    await runtime.run(Create(child(runtime, await runtime.parent(), "Job", "j", spec)))
    runtime.cluster.kubectl("annotate", "job", "j", "other=1")
    uid = runtime.cluster.get("job", "j")["metadata"]["uid"]
    annotate = Annotate(runtime.cluster.namespace, "j", uid, {"step": "20"})
    assert await runtime.run(annotate)
    assert not await runtime.run(annotate)
    assert runtime.cluster.get("job", "j")["metadata"]["annotations"].items() >= {"other": "1", "step": "20"}.items()
    with pytest.raises(Stale):
        await runtime.run(replace(annotate, uid="another-uid", annotations={"step": "40"}))


async def test_an_adjustment_decided_on_an_older_deployment_writes_nothing(runtime: Runtime) -> None:
    """A new leader with a cache from before the promotion would remove the pods of the stable revision."""
    await runtime.run(Create(deployment(runtime, await runtime.parent())))
    metadata = runtime.cluster.get("deployment", "d")["metadata"]
    runtime.cluster.kubectl("label", "deployment", "d", "role=stable")
    before = runtime.cluster.get("deployment", "d")
    adjust = Adjust(runtime.cluster.namespace, "d", metadata["uid"], 0, {"role": "failed"}, {})
    with pytest.raises(Stale):
        await runtime.run(replace(adjust, resource_version=metadata["resourceVersion"]))
    assert runtime.cluster.get("deployment", "d") == before
    assert runtime.caches.get("Deployment", runtime.cluster.namespace, "d") == before
    assert await runtime.run(replace(adjust, resource_version=before["metadata"]["resourceVersion"]))


async def test_delete_means_that_very_object(runtime: Runtime) -> None:
    await runtime.run(Create(deployment(runtime, await runtime.parent())))
    uid = runtime.cluster.get("deployment", "d")["metadata"]["uid"]
    delete = Delete("apps/v1", "Deployment", runtime.cluster.namespace, "d", "another-uid")
    await runtime.run(delete)
    assert runtime.cluster.get("deployment", "d")
    await runtime.run(Delete("apps/v1", "Deployment", runtime.cluster.namespace, "d", uid))
    assert runtime.cluster.get("deployment", "d") is None
    await runtime.run(Delete("apps/v1", "Deployment", runtime.cluster.namespace, "d", uid))


async def test_a_deletion_decided_on_an_older_object_deletes_nothing(runtime: Runtime) -> None:
    await runtime.run(Create(deployment(runtime, await runtime.parent())))
    metadata = runtime.cluster.get("deployment", "d")["metadata"]
    runtime.cluster.kubectl("label", "deployment", "d", "role=candidate")
    known = (metadata["uid"], metadata["resourceVersion"])
    delete = Delete("apps/v1", "Deployment", runtime.cluster.namespace, "d", *known)
    with pytest.raises(Stale):
        await runtime.run(delete)
    live = runtime.cluster.get("deployment", "d")
    assert runtime.caches.get("Deployment", runtime.cluster.namespace, "d") == live
    assert await runtime.run(replace(delete, resource_version=live["metadata"]["resourceVersion"]))
    assert runtime.cluster.get("deployment", "d") is None


async def test_what_is_gone_without_the_watchs_word_is_forgotten_and_decided_anew(runtime: Runtime) -> None:
    await runtime.run(Create(deployment(runtime, await runtime.parent())))
    uid = runtime.cluster.get("deployment", "d")["metadata"]["uid"]
    runtime.cluster.kubectl("delete", "deployment", "d")
    with pytest.raises(Stale):
        await runtime.run(Adjust(runtime.cluster.namespace, "d", uid, 3))
    assert runtime.caches.get("Deployment", runtime.cluster.namespace, "d") is None


async def test_a_pod_that_has_changed_since_it_seemed_lost_is_not_failed(runtime: Runtime) -> None:
    metadata = {"name": "p", "labels": {"app.kubernetes.io/managed-by": "driftloop"}}
    runtime.cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template()["spec"]})
    seen = runtime.cluster.get("pod", "p")["metadata"]
    runtime.cluster.patch_status("pod", "p", {"phase": "Running"})
    with pytest.raises(Stale):
        await runtime.run(FailPod(runtime.cluster.namespace, "p", seen["uid"], "lost", seen["resourceVersion"]))
    assert runtime.cluster.get("pod", "p")["status"]["phase"] == "Running"


async def test_a_lost_pod_is_failed_as_a_disruption(runtime: Runtime) -> None:
    labels = {"app.kubernetes.io/managed-by": "driftloop"}
    metadata = {"name": "p", "labels": labels, "finalizers": ["batch.kubernetes.io/job-tracking"]}
    runtime.cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template()["spec"]})
    running = [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    runtime.cluster.patch_status("pod", "p", {"phase": "Running", "conditions": running})
    uid = runtime.cluster.get("pod", "p")["metadata"]["uid"]
    fail = FailPod(runtime.cluster.namespace, "p", uid, "node-b is lost")
    assert await runtime.run(fail)
    assert not await runtime.run(fail)
    status = runtime.cluster.get("pod", "p")["status"]
    assert status["phase"] == "Failed"
    assert {each["type"] for each in status["conditions"]} == {"Ready", "DisruptionTarget"}
    assert not await runtime.run(FailPod(runtime.cluster.namespace, "p", "another-uid", ""))


async def test_a_status_is_written_when_it_differs_and_not_over_a_newer_one(runtime: Runtime) -> None:
    status = {"phase": "Training", "progress": {"step": 1}}
    event = Event("Normal", "Started", "started")
    assert await runtime.run(status=status, events=(event,))
    assert not await runtime.run(status=status, events=(event, Event("Normal", "Idle", "told by nobody")))
    stale = await runtime.parent()
    runtime.cluster.patch_status("ftj", "one", {"version": "other"})
    with pytest.raises(Stale):
        await runtime.executor.execute(stale, Plan(status=status | {"phase": "Failed"}), FineTuneJobStatus)
    assert await runtime.run(status=status)  # fields that are not in the new status are removed
    live = runtime.cluster.get("ftj", "one")["status"]
    assert "version" not in live
    assert live["phase"] == "Training"
    assert [each["reason"] for each in runtime.cluster.list("events.events.k8s.io")] == ["Started"]


async def test_a_version_of_another_job_has_the_name(runtime: Runtime) -> None:
    def version(uid: str) -> Create:
        digest = "sha256:" + "0" * 64
        return Create(
            {
                "apiVersion": API_VERSION,
                "kind": "ModelVersion",
                "metadata": {"name": "v", "namespace": runtime.cluster.namespace},
                "spec": {
                    "family": "f",
                    "artefact": {"uri": "hf://a/b", "digest": digest},
                    "lineage": {"jobUid": uid},
                },
            }
        )

    assert await runtime.run(version("1"))
    assert not await runtime.run(version("1"))
    with pytest.raises(NameTaken, match="ModelVersion v exists"):
        await runtime.run(version("2"))


async def test_whoever_depends_on_what_was_written_is_told(runtime: Runtime) -> None:
    """Otherwise the watch finds the object in the cache and reports no change, so that it is never reconciled."""
    parent = await runtime.parent()
    service = child(runtime, parent, "Service", "web", {"ports": [{"port": 80}]})
    await runtime.run(Apply(service), status={"phase": "Training"})
    assert [obj["kind"] for obj in runtime.changed] == ["Service", "FineTuneJob"]
    runtime.changed.clear()
    await runtime.run(Apply(service), status={"phase": "Training"})
    assert runtime.changed == []
