"""Read Kubernetes objects of any shape. A malformed object must not stop the others."""

from typing import Any

from driftloop.controller.vocabulary.plan import Key, Obj


def key(obj: Obj) -> Key:
    """Kind, namespace and name of the object."""
    return Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])


def labels(obj: Obj) -> dict[str, str]:
    """Labels of the object; empty if it has none."""
    return obj["metadata"].get("labels") or {}


def annotations(obj: Obj) -> dict[str, str]:
    """Annotations of the object; empty if it has none."""
    return obj["metadata"].get("annotations") or {}


def field(obj: Any, *path: str) -> Any:
    """The value at `path`; None if any part of the path is missing."""
    for part in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(part)
    return obj


def phase(obj: Obj) -> str | None:
    """`status.phase` if it is a string, else None."""
    value = field(obj, "status", "phase")
    return value if isinstance(value, str) else None


def has_ended(pod: Obj) -> bool:
    """Whether a pod has ended, however: it stays as an object, and never runs again."""
    return phase(pod) in ("Succeeded", "Failed")
