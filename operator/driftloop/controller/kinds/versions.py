"""Questions about ModelVersions that more than one kind asks. Pure; objects that don't parse are passed over."""

from collections.abc import Iterable, Sequence
from typing import get_args

from driftloop.api.modelversion import Gate, ModelVersionPhase
from driftloop.controller.vocabulary import objects
from driftloop.controller.vocabulary.labels import ROLE, SERVICE, SINCE, VERSION
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.objects import annotations, field, labels
from driftloop.controller.vocabulary.plan import Obj

# What may be trained from. Nothing speaks against a version that awaits approval; it only isn't served.
TRAINABLE: tuple[ModelVersionPhase, ...] = ("Approved", "AwaitingApproval")
AT_WORK = ("stable", "candidate")  # values of the label ROLE of a Deployment that serves, or is tried
UNJUDGED: tuple[ModelVersionPhase | None, ...] = (None, "Pending", "Evaluating")


def phase(version: Obj) -> ModelVersionPhase | None:
    """Where a version is."""
    text = objects.phase(version)
    return next((known for known in get_args(ModelVersionPhase) if known == text), None)


def family(version: Obj) -> str | None:
    """The family of a version."""
    name = field(version, "spec", "family")
    return name if isinstance(name, str) else None


def to_start_from(versions: Iterable[Obj], of_family: str) -> Obj | None:
    """The Approved version of the family that was created last; where there is none, the last that no suite judged."""
    trainable = [version for version in versions if family(version) == of_family and phase(version) in TRAINABLE]
    return max(
        trainable,
        key=lambda v: (phase(v) == "Approved", v["metadata"]["creationTimestamp"], v["metadata"]["name"]),
        default=None,
    )


def has_shown_gain(gates: Sequence[Gate]) -> bool:
    """Whether a target suite showed that the version learned what it was made for."""
    return any(gate.kind == "target" and gate.verdict == "Pass" for gate in gates)


def follows(service: Obj, of_family: str) -> bool:
    """Whether an InferenceService serves versions of the family."""
    return bool(field(service, "spec", "model", "family") == of_family)


def by_name(versions: Iterable[Obj], name: str) -> Obj | None:
    """The version of that name."""
    return next((version for version in versions if version["metadata"]["name"] == name), None)


def stable_version(service: Obj, deployments: Iterable[Obj]) -> str | None:
    """Name of the version that a service serves as stable, by the labels on its Deployments: status may be lost.

    Two are stable between two writes of a promotion; the later one has taken over.
    """
    uid = service["metadata"]["uid"]
    own = [deployment for deployment in deployments if controlled_by(deployment, uid)]
    stable = [deployment for deployment in own if labels(deployment).get(ROLE) == "stable"]
    latest = max(stable, key=_since, default=None)
    return labels(latest).get(VERSION) if latest else None


def services_of(version: str, deployments: Iterable[Obj]) -> list[str]:
    """Names of the services that have pods of the version or may have them again, sorted.

    A revision that was rolled back is kept without pods, as the memory of its failure: that is no use of the version.
    """
    used = [deployment for deployment in _of_version(version, deployments) if _is_used(deployment)]
    return sorted({name for deployment in used if (name := labels(deployment).get(SERVICE))})


def at_work(version: str, deployments: Iterable[Obj]) -> bool:
    """Whether some service has the version as its stable or its candidate."""
    return any(labels(deployment).get(ROLE) in AT_WORK for deployment in _of_version(version, deployments))


def _of_version(version: str, deployments: Iterable[Obj]) -> list[Obj]:
    return [deployment for deployment in deployments if labels(deployment).get(VERSION) == version]


def _is_used(deployment: Obj) -> bool:
    wanted, running = field(deployment, "spec", "replicas"), field(deployment, "status", "replicas")
    return labels(deployment).get(ROLE) in AT_WORK or wanted != 0 or bool(running)


def _since(deployment: Obj) -> tuple[str, str]:
    metadata = deployment["metadata"]
    return annotations(deployment).get(SINCE) or metadata.get("creationTimestamp") or "", metadata["name"]
