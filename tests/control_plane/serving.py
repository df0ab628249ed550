"""Versions, services and their Deployments. The tests play the gates and the kubelet."""

from typing import Any

from control_plane.harness import Cluster

FAMILY = "family"


def service(**spec: Any) -> Any:
    """The InferenceService `desk`."""
    return {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "desk"},
        "spec": {
            "model": {"family": FAMILY},
            "replicas": 2,
            "canary": {"minRequests": 20, "minSeconds": 1, "maxErrorRateIncrease": 0.2},
            **spec,
        },
    }


def digest(name: str) -> str:
    """The digest of the version with this name."""
    return "sha256:" + (name.encode().hex() * 64)[:64]


def judged(cluster: Cluster, name: str, phase: str = "Approved", against: str | None = None) -> None:
    """Create a version with the verdict of its gates."""
    artefact = {"uri": f"pvc://models/{name}", "digest": digest(name)}
    cluster.create(
        {
            "apiVersion": "driftloop.dev/v1alpha1",
            "kind": "ModelVersion",
            "metadata": {"name": name},
            "spec": {"family": FAMILY, "artefact": artefact},
        }
    )
    status: Any = {"phase": phase}
    if against:
        status["baseline"] = {"version": against, "digest": digest(against), "service": "desk"}
    cluster.patch_status("mver", name, status)


def deployment(cluster: Cluster, version: str) -> Any:
    """The Deployment of a version; None if there is none."""
    found = [d for d in cluster.list("deployments") if d["metadata"]["labels"].get("driftloop.dev/version") == version]
    return found[0] if found else None


def role(cluster: Cluster, version: str) -> str | None:
    """A version's role in the service; None without a Deployment."""
    found = deployment(cluster, version)
    return found["metadata"]["labels"]["driftloop.dev/role"] if found else None


def play_kubelet(cluster: Cluster) -> None:
    """Set the status of all Deployments as if all their pods were ready."""
    for found in cluster.list("deployments"):
        wanted = found["spec"]["replicas"]
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)
        status = {"observedGeneration": found["metadata"]["generation"], **counts}
        if {key: found.get("status", {}).get(key) for key in status} != status:
            cluster.patch_status("deployment", found["metadata"]["name"], status)


def settled(cluster: Cluster, version: str, wanted: str | None) -> bool:
    """Play the kubelet. Returns whether the version has the role `wanted`."""
    play_kubelet(cluster)
    return role(cluster, version) == wanted
