"""Questions about ModelVersions that more than one kind asks. Pure; objects that don't parse are passed over."""

from collections.abc import Iterable

from driftloop.contract.names import ROLE, SERVICE, VERSION
from driftloop.controller.core import Obj
from driftloop.controller.naming import controlled_by


def phase(version: Obj) -> str | None:
    """Where a version is."""
    found = (version.get("status") or {}).get("phase")
    return found if isinstance(found, str) else None


def family(version: Obj) -> str | None:
    """The family of a version."""
    found = (version.get("spec") or {}).get("family")
    return found if isinstance(found, str) else None


def last_approved(versions: Iterable[Obj], of_family: str) -> Obj | None:
    """The Approved version of the family that was created last."""
    approved = [version for version in versions if family(version) == of_family and phase(version) == "Approved"]
    return max(approved, key=lambda v: (v["metadata"]["creationTimestamp"], v["metadata"]["name"]), default=None)


def by_name(versions: Iterable[Obj], name: str) -> Obj | None:
    """The version of that name."""
    return next((version for version in versions if version["metadata"]["name"] == name), None)


def stable_version(service: Obj, deployments: Iterable[Obj]) -> str | None:
    """Name of the version that a service serves as stable, by the labels on its Deployments: status may be lost."""
    for deployment in deployments:
        labels = deployment["metadata"].get("labels") or {}
        if labels.get(ROLE) == "stable" and controlled_by(deployment, service["metadata"]["uid"]):
            name = labels.get(VERSION)
            return name if isinstance(name, str) else None
    return None


def services_of(version: str, deployments: Iterable[Obj]) -> list[str]:
    """Names of the services that have a Deployment of the version, sorted."""
    found = set()
    for deployment in deployments:
        labels = deployment["metadata"].get("labels") or {}
        if labels.get(VERSION) == version and labels.get(SERVICE):
            found.add(str(labels[SERVICE]))
    return sorted(found)
