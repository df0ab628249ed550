"""The real API server accepts all objects of a service, and the restricted Pod Security Standard its pods."""

import json
from typing import Any

import pytest
import yaml

from control_plane.harness import Cluster
from control_plane.placement import PLACEMENT
from driftloop.controller.kinds.inferenceservice.decide import decide
from driftloop.controller.pods.group import worker
from driftloop.controller.vocabulary.plan import Apply, Create, Obj
from testcluster.console import Error
from testcluster.paths import REPOSITORY
from unit.controller.kinds.inferenceservice.builders import NOW, SETTINGS, service, version

pytestmark = pytest.mark.control_plane

ENGINES: list[Obj] = [
    {"type": "transformers", "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "2Gi"}}},
    {"type": "vllm", "image": "vllm/vllm-openai:v0.20.0", "gpus": 2, "args": ["--enable-prefix-caching"]},
    {"type": "custom", "image": "my/server:1", "command": ["/serve"], "args": ["--port=$(DRIFTLOOP_PORT)"], "gpus": 2},
]
OVERRIDES = {
    "labels": {"cost": "team"},
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    **PLACEMENT,
    "imagePullSecrets": [{"name": "pull"}],
    "storageSecret": {"name": "credentials"},
}


def rendered(namespace: str, engine: Obj) -> list[Obj]:
    """All objects of a new service with one version, and the pod of its Deployment."""
    spec = {"engine": engine, "feedback": {"storage": "pvc://shared/feedback"}, "podOverrides": OVERRIDES}
    plan = decide(service(spec, versions=(version("v1"),)), SETTINGS, NOW)
    bodies = [action.body for action in plan.writes if isinstance(action, Create | Apply)]
    [template] = [body["spec"]["template"] for body in bodies if body["kind"] == "Deployment"]
    pod: Obj = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": template["metadata"] | {"name": "pod"}}
    return [body | {"metadata": body["metadata"] | {"namespace": namespace}} for body in (*bodies, pod)]


def dry_run(cluster: Cluster, body: Obj) -> Any:
    text = cluster.kubectl(
        "create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-", stdin=json.dumps(body)
    )
    return json.loads(text)


@pytest.fixture
def restricted(cluster: Cluster) -> Cluster:
    """A namespace that admits only restricted pods."""
    cluster.kubectl("label", "namespace", cluster.namespace, "pod-security.kubernetes.io/enforce=restricted")
    return cluster


@pytest.mark.parametrize("engine", ENGINES, ids=["transformers", "vllm", "custom"])
def test_every_object_is_taken_as_it_is(restricted: Cluster, engine: Obj) -> None:
    bodies = rendered(restricted.namespace, engine)
    kinds = [dry_run(restricted, body)["kind"] for body in bodies]
    assert kinds == [
        "Service",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "Service",
        "Secret",
        "Deployment",
        "Pod",
    ]


def test_the_objects_of_a_replica_over_nodes_are_taken_with_a_worker(restricted: Cluster) -> None:
    engine = {"type": "vllm", "image": "vllm/vllm-openai:v0.20.0", "gpus": 8, "nodes": 2}
    bodies = rendered(restricted.namespace, engine)
    kinds = [dry_run(restricted, body)["kind"] for body in bodies]
    assert kinds.count("NetworkPolicy") == 2
    deployment = dry_run(restricted, next(body for body in bodies if body["kind"] == "Deployment"))
    meta = {"name": "leader", "namespace": restricted.namespace, "uid": "0f3c"}
    leader = {"metadata": meta, "spec": {"nodeName": "node-1"}, "status": {"podIP": "10.0.0.7"}}
    of_leader = worker(deployment["spec"]["template"], leader, 1, 0)
    assert dry_run(restricted, of_leader)["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_the_example_of_a_custom_engine_is_accepted_with_its_pod(restricted: Cluster) -> None:
    example = yaml.safe_load((REPOSITORY / "examples/custom-engine/inferenceservice.yaml").read_text())
    created = dry_run(restricted, example | {"metadata": example["metadata"] | {"namespace": restricted.namespace}})
    for body in rendered(restricted.namespace, created["spec"]["engine"]):
        dry_run(restricted, body)


def test_the_standard_would_refuse_a_pod_with_more_rights(restricted: Cluster) -> None:
    pod = rendered(restricted.namespace, ENGINES[0])[-1]
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(Error, match="PodSecurity"):
        dry_run(restricted, pod)
