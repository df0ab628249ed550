"""Which custom resources to reconcile when an object changes: its owners, itself, and those that kinds name. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

from driftloop.api.base import API_VERSION
from driftloop.controller.vocabulary.kind import CUSTOM, Kind
from driftloop.controller.vocabulary.objects import key
from driftloop.controller.vocabulary.plan import Key, Obj
from driftloop.controller.vocabulary.world import Lookup


def keys_for(changed: Obj, kinds: Iterable[Kind[Any]], objects: Lookup) -> set[Key]:
    """The custom resources to reconcile after `changed` was added, changed or deleted."""
    keys = set(_owners(changed, objects))
    if changed["kind"] in CUSTOM:
        keys.add(key(changed))
    for kind in kinds:
        keys |= set(kind.concerned(changed, objects))
    return keys


def _owners(obj: Obj, objects: Lookup) -> Iterator[Key]:
    """Controllers of an object, as far as they are cached: a pod's Job, the Job's FineTuneJob."""
    for owner in obj["metadata"].get("ownerReferences") or []:
        if not owner.get("controller"):
            continue
        if owner["apiVersion"] == API_VERSION and owner["kind"] in CUSTOM:
            yield Key(owner["kind"], obj["metadata"]["namespace"], owner["name"])
        elif parent := objects.by_uid(owner["uid"]):
            yield from _owners(parent, objects)
