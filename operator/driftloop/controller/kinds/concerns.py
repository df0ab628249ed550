"""Which custom resources to reconcile when an object changes: look-ups that all three kinds use. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

from driftloop.api.finetunejob import ENDED
from driftloop.controller.vocabulary.labels import STAGE
from driftloop.controller.vocabulary.objects import key, labels, phase
from driftloop.controller.vocabulary.plan import Key, Obj
from driftloop.controller.vocabulary.world import Lookup


def named_by_label(changed: Obj, kind: str, label: str) -> Iterator[Key]:
    """The object of `kind` whose name is the label's value."""
    if name := labels(changed).get(label):
        yield Key(kind, changed["metadata"]["namespace"], name)


def is_pod_of(changed: Obj, stages: tuple[str, ...]) -> bool:
    """Whether `changed` is a pod of one of the stages.

    A label decides, because ReplicaSets own a Deployment's pods, and the operator does not watch ReplicaSets.
    """
    return changed["kind"] == "Pod" and labels(changed).get(STAGE) in stages


def users_of_claim(changed: Obj, kind: str, objects: Lookup) -> Iterator[Key]:
    """The unfinished objects of `kind` whose spec names the PersistentVolumeClaim."""
    if changed["kind"] != "PersistentVolumeClaim":
        return
    uri = f"pvc://{changed['metadata']['name']}"
    for obj in unfinished(objects.list(kind, changed["metadata"]["namespace"])):
        if any(text == uri or text.startswith(f"{uri}/") for text in _texts(obj.get("spec"))):
            yield key(obj)


def unfinished(objects: Iterable[Obj]) -> Iterator[Obj]:
    """The objects that have not ended."""
    return (obj for obj in objects if phase(obj) not in ENDED)


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for part in value.values():
                yield from _texts(part)
        case list():
            for part in value:
                yield from _texts(part)
        case _:
            return  # numbers, booleans, null
