"""Reading Kubernetes objects of any shape: what does not parse must not stop the others."""

from typing import Any

from driftloop.controller.vocabulary.plan import Key, Obj


def key(obj: Obj) -> Key:
    """Kind, namespace and name."""
    return Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])


def labels(obj: Obj) -> dict[str, str]:
    """Labels; empty where there are none."""
    return obj["metadata"].get("labels") or {}


def annotations(obj: Obj) -> dict[str, str]:
    """Annotations; empty where there are none."""
    return obj["metadata"].get("annotations") or {}


def field(obj: Any, *path: str) -> Any:
    """The value at a path that may be missing at any depth, or None."""
    for part in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(part)
    return obj


def phase(obj: Obj) -> str | None:
    """`status.phase`, where it is a text."""
    value = field(obj, "status", "phase")
    return value if isinstance(value, str) else None
