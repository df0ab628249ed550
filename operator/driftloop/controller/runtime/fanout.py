"""Whose reconcile may turn out differently when an object has changed. Pure look-ups."""

from collections.abc import Iterator
from typing import Any, Protocol

from driftloop.api.base import API_VERSION
from driftloop.contract.names import JOB, SERVICE, STAGE, VERSION
from driftloop.controller.runtime.resources import CUSTOM
from driftloop.controller.vocabulary.plan import Key, Obj

# Pods of a Deployment are owned by ReplicaSets, which nobody watches: their labels tell the custom resource.
_STAGES = {
    "prepare": ("FineTuneJob", JOB),
    "train": ("FineTuneJob", JOB),
    "evaluate": ("ModelVersion", VERSION),
    "serve": ("InferenceService", SERVICE),
}
_FINISHED = {"Succeeded", "Failed"}


class Lookup(Protocol):
    """The caches, as far as they are needed here."""

    def by_uid(self, uid: str) -> Obj | None: ...
    def list(self, kind: str, namespace: str | None = None) -> list[Obj]: ...


def keys_for(kind: str, obj: Obj, caches: Lookup) -> set[Key]:
    """The custom resources to reconcile after `obj` was added, changed or deleted."""
    namespace = obj["metadata"]["namespace"]
    found = set(_owners(obj, caches))
    if kind in CUSTOM:
        found.add(Key(kind, namespace, obj["metadata"]["name"]))
    if kind == "Pod":
        found |= set(_by_stage(obj))
    elif kind == "Deployment":
        found |= set(_label(obj, "ModelVersion", VERSION))  # whether it is in use
    elif kind == "FineTuneJob":
        found |= set(_label(obj, "InferenceService", SERVICE))
    elif kind == "ModelVersion":
        found |= set(_label(obj, "FineTuneJob", JOB)) | set(_followers(obj, caches))
    elif kind == "InferenceService":
        found |= set(_dependants(obj, caches))
    elif kind == "PersistentVolumeClaim":
        found |= set(_users_of_claim(obj, caches))
    return found


def _owners(obj: Obj, caches: Lookup) -> Iterator[Key]:
    """Up the chain of controllers, as far as it is cached: a pod's Job, the Job's FineTuneJob."""
    for owner in obj["metadata"].get("ownerReferences") or []:
        if not owner.get("controller"):
            continue
        if owner["apiVersion"] == API_VERSION and owner["kind"] in CUSTOM:
            yield Key(owner["kind"], obj["metadata"]["namespace"], owner["name"])
        elif parent := caches.by_uid(owner["uid"]):
            yield from _owners(parent, caches)


def _by_stage(pod: Obj) -> Iterator[Key]:
    stage = (pod["metadata"].get("labels") or {}).get(STAGE)
    if stage in _STAGES:
        yield from _label(pod, *_STAGES[stage])


def _label(obj: Obj, kind: str, label: str) -> Iterator[Key]:
    if name := (obj["metadata"].get("labels") or {}).get(label):
        yield Key(kind, obj["metadata"]["namespace"], name)


def _followers(version: Obj, caches: Lookup) -> Iterator[Key]:
    """Services of the version's family, and jobs that start from it or wait for the family's first."""
    namespace, name = version["metadata"]["namespace"], version["metadata"]["name"]
    family = _field(version, "spec", "family")
    for service in caches.list("InferenceService", namespace):
        if _field(service, "spec", "model", "family") == family:
            yield _key(service)
    for job in _unfinished(caches.list("FineTuneJob", namespace)):
        start = _field(job, "spec", "model", "from")
        if _field(start, "family") == family or _field(start, "versionRef", "name") == name:
            yield _key(job)


def _dependants(service: Obj, caches: Lookup) -> Iterator[Key]:
    """Versions of the service's family (their baseline is what it serves), and jobs that start from that."""
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    family = _field(service, "spec", "model", "family")
    for version in caches.list("ModelVersion", namespace):
        if _field(version, "spec", "family") == family:
            yield _key(version)
    for job in _unfinished(caches.list("FineTuneJob", namespace)):
        if _field(job, "spec", "model", "from", "serving", "name") == name:
            yield _key(job)


def _users_of_claim(claim: Obj, caches: Lookup) -> Iterator[Key]:
    namespace, uri = claim["metadata"]["namespace"], f"pvc://{claim['metadata']['name']}"
    for kind in CUSTOM:
        for obj in _unfinished(caches.list(kind, namespace)):
            if any(text == uri or text.startswith(f"{uri}/") for text in _texts(obj.get("spec"))):
                yield _key(obj)


def _unfinished(objects: list[Obj]) -> Iterator[Obj]:
    return (obj for obj in objects if _field(obj, "status", "phase") not in _FINISHED)


def _key(obj: Obj) -> Key:
    return Key(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])


def _field(obj: Any, *path: str) -> Any:
    """A field that may be missing at any depth: what doesn't parse must not stop the others."""
    for part in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(part)
    return obj


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
