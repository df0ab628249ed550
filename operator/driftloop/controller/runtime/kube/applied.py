"""Whether an object is still as the operator last applied it, so that a steady state writes nothing. Pure.

Values can't be compared, because the API server adds defaults and rewrites quantities. Instead the applied object has
an annotation with the hash of the applied body. managedFields show whether the operator still owns all fields: if
another client changes a field, it leaves the operator's entry.
"""

import hashlib
import json
from typing import Any

from driftloop.controller.runtime.kube.api import FIELD_MANAGER
from driftloop.controller.vocabulary.labels import APPLIED, MANAGED_BY
from driftloop.controller.vocabulary.objects import annotations, field, labels
from driftloop.controller.vocabulary.plan import Obj

_IDENTITY = {"apiVersion", "kind"}
_IDENTITY_METADATA = {"name", "namespace", "uid", "resourceVersion"}


def stamped(body: Obj) -> Obj:
    """`body` with the managed-by label on itself and on its pod template. The caches only hold labelled objects."""
    labelled = _labelled(body)
    template = field(body, "spec", "template")
    if isinstance(template, dict) and "spec" in template:
        labelled = labelled | {"spec": body["spec"] | {"template": _labelled(template)}}
    return labelled


def is_stamped(live: Obj) -> bool:
    """Whether the object has the managed-by label."""
    name, value = MANAGED_BY
    return labels(live).get(name) == value


def hashed(body: Obj) -> Obj:
    """`body` with its own hash as an annotation."""
    return body | {"metadata": body["metadata"] | {"annotations": annotations(body) | {APPLIED: digest(body)}}}


def digest(body: Obj) -> str:
    """Sixteen hex digits of a hash of `body`."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def is_applied(body: Obj, live: Obj) -> bool:
    """Whether applying `body` (without its hash) would change nothing in `live`."""
    return annotations(live).get(APPLIED) == digest(body) and owns(live, hashed(body))


def owns(live: Obj, body: Obj) -> bool:
    """Whether the operator owns every field of `body` in `live`."""
    for entry in live["metadata"].get("managedFields") or []:
        own = entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        if own and not entry.get("subresource"):
            return _covered(_comparable(body), entry.get("fieldsV1") or {})
    return False


def _labelled(obj: Obj) -> Obj:
    metadata = obj.get("metadata") or {}
    name, value = MANAGED_BY
    return obj | {"metadata": metadata | {"labels": (metadata.get("labels") or {}) | {name: value}}}


def _comparable(body: Obj) -> Obj:
    metadata = {key: value for key, value in body["metadata"].items() if key not in _IDENTITY_METADATA}
    return {key: value for key, value in body.items() if key not in _IDENTITY} | {"metadata": metadata}


def _covered(wanted: Any, fields: dict[str, Any]) -> bool:
    """Whether a fieldsV1 set contains `wanted`. An empty set is a leaf, or a list that is owned as a whole."""
    if not {key for key in fields if key != "."}:
        return True
    if isinstance(wanted, dict):
        return all(f"f:{key}" in fields and _covered(value, fields[f"f:{key}"]) for key, value in wanted.items())
    if isinstance(wanted, list):
        return all(_item_covered(item, fields) for item in wanted)
    return True


def _item_covered(item: Any, fields: dict[str, Any]) -> bool:
    if f"v:{json.dumps(item)}" in fields:  # a list that is a set
        return True
    return isinstance(item, dict) and any(
        _has_key(item, json.loads(name[2:])) and _covered(item, below)
        for name, below in fields.items()
        if name.startswith("k:")
    )


def _has_key(item: Obj, key: Obj) -> bool:
    """Whether a list item has this key. Fields that the item lacks were defaulted (`protocol: TCP`)."""
    return all(item.get(name, value) == value for name, value in key.items())
