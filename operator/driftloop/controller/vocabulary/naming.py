"""Names and ownership of the objects that the operator creates. Pure.

The name of a child contains a hash of its parent's UID. So a parent that was deleted and created again with the same
name never takes over children of the first one.
"""

import hashlib

from driftloop.controller.vocabulary.plan import Obj

MAX_NAME = 63  # limit of label values, Service names and hostnames of pods
MAX_RESOURCE_NAME = 40  # limit of Driftloop's own kinds, by a CEL rule


def uid_hash(uid: str) -> str:
    """Eight hex digits of a hash of `uid`."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def child_name(parent: Obj, suffix: str) -> str:
    """`<parent name>-<hash of its UID>-<suffix>`, at most 63 characters. Only the parent's name is cut."""
    tail = f"-{uid_hash(parent['metadata']['uid'])}-{suffix}"
    return _stem(parent["metadata"]["name"], MAX_NAME - len(tail)) + tail


def version_name(family: str, job_uid: str) -> str:
    """Name of the ModelVersion that a job creates: `<family>-<hash of the job's UID>`, at most 40 characters."""
    tail = f"-{uid_hash(job_uid)}"
    return _stem(family, MAX_RESOURCE_NAME - len(tail)) + tail


def owner_reference(parent: Obj) -> Obj:
    """The reference that makes `parent` the controller of a child, so that both are garbage collected together.

    blockOwnerDeletion is false: with the admission plugin OwnerReferencesPermissionEnforcement it needs the right to
    update the parent's finalizers, and nothing here waits for foreground deletion.
    """
    return {
        "apiVersion": parent["apiVersion"],
        "kind": parent["kind"],
        "name": parent["metadata"]["name"],
        "uid": parent["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }


def controlled_by(obj: Obj, uid: str) -> bool:
    """Whether the object with `uid` is the controller of `obj`."""
    owners = obj["metadata"].get("ownerReferences") or []
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def is_stage_pod(parent: Obj, pod: Obj) -> bool:
    """Whether a Job of `parent` created the pod. The Job may be gone, so its name decides: it has the UID hash."""
    prefix = child_name(parent, "")
    owners = pod["metadata"].get("ownerReferences") or []
    return any(
        owner.get("controller") and owner.get("kind") == "Job" and owner.get("name", "").startswith(prefix)
        for owner in owners
    )


def _stem(name: str, room: int) -> str:
    return name[:room].rstrip("-.")
