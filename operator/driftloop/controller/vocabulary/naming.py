"""Names and ownership of what the operator creates. Pure.

A child's name holds a hash of its parent's UID: a parent deleted and created again under its name is another
parent, and never takes over what the first one left.
"""

import hashlib

from driftloop.controller.vocabulary.plan import Obj

MAX_NAME = 63  # a label value, a Service and a pod's hostname hold no more
MAX_RESOURCE_NAME = 40  # of our own kinds, by CEL


def uid_hash(uid: str) -> str:
    """Eight hex digits that stand for `uid`."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def child_name(parent: Obj, suffix: str) -> str:
    """`<parent name>-<hash of its UID>-<suffix>`, at most 63 characters; what is cut is the parent's name."""
    tail = f"-{uid_hash(parent['metadata']['uid'])}-{suffix}"
    return _stem(parent["metadata"]["name"], MAX_NAME - len(tail)) + tail


def version_name(family: str, job_uid: str) -> str:
    """Name of the ModelVersion that a job makes: `<family>-<hash of the job's UID>`, at most 40 characters."""
    tail = f"-{uid_hash(job_uid)}"
    return _stem(family, MAX_RESOURCE_NAME - len(tail)) + tail


def owner_reference(parent: Obj) -> Obj:
    """Makes `parent` the controller of a child: the garbage collector removes the child after it.

    No blockOwnerDeletion: it would need the right to update the parent's finalizers where
    OwnerReferencesPermissionEnforcement is on, and nothing here waits for foreground deletion.
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
    """Whether the object's controller is the one with `uid`."""
    owners = obj["metadata"].get("ownerReferences") or []
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def is_stage_pod(parent: Obj, pod: Obj) -> bool:
    """Whether a Job of `parent` made the pod. The Job may be gone: its name tells, which has the parent's UID in it."""
    prefix = child_name(parent, "")
    owners = pod["metadata"].get("ownerReferences") or []
    return any(
        owner.get("controller") and owner.get("kind") == "Job" and owner.get("name", "").startswith(prefix)
        for owner in owners
    )


def _stem(name: str, room: int) -> str:
    return name[:room].rstrip("-.")
