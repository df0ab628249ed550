"""The real API server accepts all objects of the stages, and the restricted Pod Security Standard all pods."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from control_plane.placement import PLACEMENT
from driftloop.controller.kinds.finetunejob.decide import decide as decide_job
from driftloop.controller.kinds.modelversion.decide import decide as decide_version
from driftloop.controller.vocabulary.plan import Apply, Create, Obj, Plan
from testcluster.console import Error
from testcluster.controlplane import ControlPlane
from unit.controller.stages import (
    NOW,
    SETTINGS,
    Cluster,
    answered,
    approved,
    deployment,
    digest,
    job,
    observe_job,
    observe_version,
    prepared,
    service,
    trained,
    version,
)

pytestmark = pytest.mark.control_plane

OVERRIDES = {
    "labels": {"cost": "team"},
    "annotations": {"note": "x"},
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "serviceAccountName": "storage",
    **PLACEMENT,
    "imagePullSecrets": [{"name": "pull"}],
    "storageSecret": {"name": "credentials"},
}
NAMESPACE: Obj = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": "team", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(NAMESPACE))
        yield plane


def dry_run(plane: ControlPlane, obj: Obj) -> str:
    return plane.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(obj))


def bodies(plan: Plan) -> list[Obj]:
    return [action.body for action in plan.writes if isinstance(action, Create | Apply)]


def rendered(gpus: int, claim_template: str | None = None, **more: Any) -> list[Obj]:
    """All objects of the stages of a job and of its version, without custom resources."""
    compute = {"nodes": 2, "resources": {"limits": {"memory": "32Gi", "cpu": "1"}}}
    if gpus:
        compute |= {"gpusPerNode": gpus, "workersPerNode": gpus, "queueName": "gpus"}
    if claim_template:
        compute["gpuClaimTemplate"] = claim_template
    body, cluster, found = job(compute=compute, **more), Cluster(), []
    for stage, result in (("prepare", prepared()), ("train", trained())):
        plan = decide_job(observe_job(body, cluster), SETTINGS, NOW)
        found += bodies(plan)
        cluster.take(plan)
        cluster.finish(stage, result)
    desk, stable, candidate = (
        service(),
        approved(version("support-1")),
        version("support-2", "2", "2026-01-01T11:30:00Z"),
    )
    for _ in range(2):  # first for the stable version
        observed = observe_version(
            candidate,
            cluster,
            services=[desk],
            versions=(stable, candidate),
            deployments=(deployment(desk, "support-1"),),
        )
        plan = decide_version(observed, SETTINGS, NOW)
        found += [body for body in bodies(plan) if body not in found]
        cluster.take(plan)
        cluster.finish("evaluate", answered(digest("a")))
    return found


@pytest.mark.parametrize("gpus", [0, 8])
@pytest.mark.parametrize("overrides", [{}, OVERRIDES], ids=["plain", "overridden"])
def test_every_object_of_the_stages_is_accepted(plane: ControlPlane, gpus: int, overrides: Obj) -> None:
    objects = rendered(gpus, podOverrides=overrides)
    assert sorted(obj["kind"] for obj in objects) == [
        *["Job"] * 4,
        *["NetworkPolicy"] * 3,
        "Secret",
        "Service",
    ]
    for obj in objects:
        assert "created" in dry_run(plane, obj)


@pytest.mark.parametrize("gpus", [0, 8])
def test_the_restricted_standard_admits_a_pod_of_each_job(plane: ControlPlane, gpus: int) -> None:
    templates = [obj["spec"]["template"] for obj in rendered(gpus) if obj["kind"] == "Job"]
    for index, template in enumerate(templates):
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = template["metadata"] | {"name": f"pod-{index}", "namespace": "team"}
        assert "created" in dry_run(plane, pod)


def test_a_pod_that_claims_its_gpus_is_accepted(plane: ControlPlane) -> None:
    (train,) = (obj for obj in rendered(8, "h100s") if "completionMode" in obj.get("spec", {}))
    template = train["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = template["metadata"] | {"name": "claiming", "namespace": "team"}
    assert "created" in dry_run(plane, train)
    assert "created" in dry_run(plane, pod)


def test_the_standard_is_enforced_at_all(plane: ControlPlane) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bad", "namespace": "team"},
        "spec": {"containers": [{"name": "bad", "image": "x"}]},
    }
    with pytest.raises(Error, match="violates PodSecurity"):
        dry_run(plane, pod)
