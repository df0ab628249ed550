"""Questions about ModelVersions that more than one kind asks. Pure; objects that don't parse are passed over."""

from collections.abc import Iterable, Sequence

from driftloop.api.modelversion import Gate
from driftloop.controller.vocabulary.labels import ROLE, SERVICE, SINCE, VERSION
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.plan import Obj

# What may be trained from. Nothing speaks against a version that awaits approval; it only isn't served.
TRAINABLE = ("Approved", "AwaitingApproval")
UNJUDGED = (None, "Pending", "Evaluating")


def phase(version: Obj) -> str | None:
    """Where a version is."""
    found = (version.get("status") or {}).get("phase")
    return found if isinstance(found, str) else None


def family(version: Obj) -> str | None:
    """The family of a version."""
    found = (version.get("spec") or {}).get("family")
    return found if isinstance(found, str) else None


def to_start_from(versions: Iterable[Obj], of_family: str) -> Obj | None:
    """The Approved version of the family that was created last; where there is none, the last that no suite judged."""
    found = [version for version in versions if family(version) == of_family and phase(version) in TRAINABLE]
    return max(
        found,
        key=lambda v: (phase(v) == "Approved", v["metadata"]["creationTimestamp"], v["metadata"]["name"]),
        default=None,
    )


def has_shown_gain(gates: Sequence[Gate]) -> bool:
    """Whether a target suite showed that the version learned what it was made for."""
    return any(gate.kind == "target" and gate.verdict == "Pass" for gate in gates)


def follows(service: Obj, of_family: str) -> bool:
    """Whether an InferenceService serves versions of the family."""
    return ((service.get("spec") or {}).get("model") or {}).get("family") == of_family


def by_name(versions: Iterable[Obj], name: str) -> Obj | None:
    """The version of that name."""
    return next((version for version in versions if version["metadata"]["name"] == name), None)


def stable_version(service: Obj, deployments: Iterable[Obj]) -> str | None:
    """Name of the version that a service serves as stable, by the labels on its Deployments: status may be lost.

    Two are stable between two writes of a promotion; the later one has taken over.
    """
    uid = service["metadata"]["uid"]
    stable = [found for found in deployments if _labels(found).get(ROLE) == "stable" and controlled_by(found, uid)]
    latest = max(stable, key=_since, default=None)
    return _labels(latest).get(VERSION) if latest else None


def services_of(version: str, deployments: Iterable[Obj]) -> list[str]:
    """Names of the services that have pods of the version or may have them again, sorted.

    A revision that was rolled back is kept without pods, as the memory of its failure: that is no use of the version.
    """
    found = set()
    for deployment in deployments:
        labels = _labels(deployment)
        if labels.get(VERSION) == version and labels.get(SERVICE) and _is_used(deployment):
            found.add(labels[SERVICE])
    return sorted(found)


def at_work(version: str, deployments: Iterable[Obj]) -> bool:
    """Whether some service has the version as its stable or its candidate."""
    found = [_labels(deployment) for deployment in deployments]
    return any(labels.get(VERSION) == version and labels.get(ROLE) in ("stable", "candidate") for labels in found)


def _is_used(deployment: Obj) -> bool:
    replicas = (deployment.get("spec") or {}).get("replicas", 1), (deployment.get("status") or {}).get("replicas", 0)
    return _labels(deployment).get(ROLE) in ("stable", "candidate") or any(replicas)


def _labels(obj: Obj) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def _since(deployment: Obj) -> tuple[str, str]:
    metadata = deployment["metadata"]
    since = (metadata.get("annotations") or {}).get(SINCE) or metadata.get("creationTimestamp") or ""
    return since, metadata["name"]
