"""Whether an object that bears a wanted name is the one that was wanted. Pure."""

from driftloop.api.base import GROUP
from driftloop.controller.vocabulary.objects import field, labels
from driftloop.controller.vocabulary.plan import Obj


def same_origin(wanted: Obj, live: Obj) -> bool:
    """Whether `live` is what creating `wanted` would have made, so that creating it again is done.

    With a controller: the same one, by UID. Without (ModelVersions, the jobs of a service): our own labels are the
    same, and for a version the UID of the job it came from.
    """
    if owner := controller_uid(wanted):
        return controller_uid(live) == owner
    if controller_uid(live) or _ours(wanted) != _ours(live):
        return False
    return wanted["kind"] != "ModelVersion" or _job_uid(wanted) == _job_uid(live)


def controller_uid(obj: Obj) -> str | None:
    """UID of the controller, if there is one."""
    owners = obj["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def describe(live: Obj) -> str:
    """Who has the name, for a person."""
    owners = [owner for owner in live["metadata"].get("ownerReferences") or [] if owner.get("controller")]
    whose = f"{owners[0]['kind']} {owners[0]['name']}" if owners else "nobody"
    return f"{live['kind']} {live['metadata']['name']} exists already and is controlled by {whose}"


def _ours(obj: Obj) -> dict[str, str]:
    # in-use comes and goes during a version's life and says nothing about where it came from.
    return {k: v for k, v in labels(obj).items() if k.startswith(f"{GROUP}/") and k != f"{GROUP}/in-use"}


def _job_uid(version: Obj) -> str | None:
    uid = field(version, "spec", "lineage", "jobUid")
    return uid if isinstance(uid, str) else None
