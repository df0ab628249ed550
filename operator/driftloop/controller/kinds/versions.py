"""Questions about ModelVersions that several kinds ask. Objects that do not parse are ignored. Pure."""

from collections.abc import Iterable, Sequence
from typing import get_args

from driftloop.api.modelversion import Gate, ModelVersionPhase
from driftloop.controller.vocabulary import objects
from driftloop.controller.vocabulary.labels import ROLE, SERVICE, SINCE, VERSION
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.objects import annotations, field, labels
from driftloop.controller.vocabulary.plan import Obj

# Phases in which a version may be trained from. A version that awaits approval has failed no gate.
TRAINABLE: tuple[ModelVersionPhase, ...] = ("Approved", "AwaitingApproval")
AT_WORK = ("stable", "candidate")  # values of the label ROLE on the Deployments of these two revisions
UNJUDGED: tuple[ModelVersionPhase | None, ...] = (None, "Pending", "Evaluating")


def phase(version: Obj) -> ModelVersionPhase | None:
    """The phase of a version; None if it has no valid phase."""
    text = objects.phase(version)
    return next((known for known in get_args(ModelVersionPhase) if known == text), None)


def family(version: Obj) -> str | None:
    """The family of a version."""
    name = field(version, "spec", "family")
    return name if isinstance(name, str) else None


def to_start_from(versions: Iterable[Obj], of_family: str) -> Obj | None:
    """The newest Approved version of the family; without one, the newest that awaits approval."""
    trainable = [version for version in versions if family(version) == of_family and phase(version) in TRAINABLE]
    return max(
        trainable,
        key=lambda v: (phase(v) == "Approved", v["metadata"]["creationTimestamp"], v["metadata"]["name"]),
        default=None,
    )


def has_shown_gain(gates: Sequence[Gate]) -> bool:
    """Whether a target suite has shown a gain of the version."""
    return any(gate.kind == "target" and gate.verdict == "Pass" for gate in gates)


def follows(service: Obj, of_family: str) -> bool:
    """Whether an InferenceService serves versions of the family."""
    return bool(field(service, "spec", "model", "family") == of_family)


def by_name(versions: Iterable[Obj], name: str) -> Obj | None:
    """The version of that name."""
    return next((version for version in versions if version["metadata"]["name"] == name), None)


def stable_version(service: Obj, deployments: Iterable[Obj]) -> str | None:
    """Name of the version that a service serves as stable. The labels on its Deployments tell, as status may be lost.

    Between two writes of a promotion two Deployments are stable; the later one counts.
    """
    uid = service["metadata"]["uid"]
    own = [deployment for deployment in deployments if controlled_by(deployment, uid)]
    stable = [deployment for deployment in own if labels(deployment).get(ROLE) == "stable"]
    latest = max(stable, key=_since, default=None)
    return labels(latest).get(VERSION) if latest else None


def services_of(version: str, deployments: Iterable[Obj]) -> list[str]:
    """Names of the services that have pods of the version or may get them again, sorted.

    A Deployment that is kept without pods, as the record of a rollback, does not count as a use.
    """
    used = [deployment for deployment in _of_version(version, deployments) if _is_used(deployment)]
    return sorted({name for deployment in used if (name := labels(deployment).get(SERVICE))})


def adapters_at_work(version: Obj, adapters: Iterable[Obj], deployments: Sequence[Obj]) -> list[str]:
    """Names of the adapters that are merged onto the version's model in pods of services, sorted."""
    uri = field(version, "spec", "artefact", "uri")
    needing = [adapter["metadata"]["name"] for adapter in adapters if uri in bases(adapter)]
    return sorted(name for name in needing if services_of(name, deployments))


def bases(version: Obj) -> list[str]:
    """The folders of the models that a version is merged onto; none if it is whole."""
    return field(version, "spec", "artefact", "bases") or []


def at_work(version: str, deployments: Iterable[Obj]) -> bool:
    """Whether the version is the stable version or the candidate of a service."""
    return any(labels(deployment).get(ROLE) in AT_WORK for deployment in _of_version(version, deployments))


def _of_version(version: str, deployments: Iterable[Obj]) -> list[Obj]:
    return [deployment for deployment in deployments if labels(deployment).get(VERSION) == version]


def _is_used(deployment: Obj) -> bool:
    wanted, running = field(deployment, "spec", "replicas"), field(deployment, "status", "replicas")
    return labels(deployment).get(ROLE) in AT_WORK or wanted != 0 or bool(running)


def _since(deployment: Obj) -> tuple[str, str]:
    metadata = deployment["metadata"]
    return annotations(deployment).get(SINCE) or metadata.get("creationTimestamp") or "", metadata["name"]
