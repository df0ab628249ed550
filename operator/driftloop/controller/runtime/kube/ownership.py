"""Whether an existing object with a desired name is the desired object. Pure."""

from driftloop.api.base import GROUP
from driftloop.controller.vocabulary.objects import field, labels
from driftloop.controller.vocabulary.plan import Obj


def same_origin(wanted: Obj, live: Obj) -> bool:
    """Whether `live` was created from `wanted`, so that creating it again counts as success.

    An object with a controller must have the same controller UID. An object without one (ModelVersions, jobs of a
    service) must have the same Driftloop labels, and a version also the same job UID.
    """
    if owner := controller_uid(wanted):
        return controller_uid(live) == owner
    if controller_uid(live) or _own_labels(wanted) != _own_labels(live):
        return False
    return wanted["kind"] != "ModelVersion" or _job_uid(wanted) == _job_uid(live)


def controller_uid(obj: Obj) -> str | None:
    """UID of the controller, or None."""
    owners = obj["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def describe(live: Obj) -> str:
    """Which object has the name and who controls it, as a message for people."""
    owners = [owner for owner in live["metadata"].get("ownerReferences") or [] if owner.get("controller")]
    controller = f"is controlled by {owners[0]['kind']} {owners[0]['name']}" if owners else "has no controller"
    return f"{live['kind']} {live['metadata']['name']} exists already and {controller}"


def _own_labels(obj: Obj) -> dict[str, str]:
    # in-use changes during a version's life and says nothing about its origin.
    return {k: v for k, v in labels(obj).items() if k.startswith(f"{GROUP}/") and k != f"{GROUP}/in-use"}


def _job_uid(version: Obj) -> str | None:
    uid = field(version, "spec", "lineage", "jobUid")
    return uid if isinstance(uid, str) else None
