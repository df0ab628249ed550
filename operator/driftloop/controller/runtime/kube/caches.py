"""Caches of the API server's objects, filled by LISTs, watches and the responses to the operator's writes.

Readers share the objects, which are never changed, only replaced. Only one event loop may fill the caches. Other
threads may read whole collections, as these are copied in one step.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable

from driftloop.controller.runtime.kube.resources import RESOURCES, WATCHED
from driftloop.controller.vocabulary.objects import labels as labels_of
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.world import Objects

TOMBSTONES = 20_000


class Caches:
    """The objects of the watched kinds, by namespace and name, and by the UID of their owners."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, dict[str, Obj]]] = {resource.kind: {} for resource in WATCHED}
        self._by_owner: dict[tuple[str, str], dict[str, Obj]] = defaultdict(dict)
        self._by_uid: dict[str, Obj] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()  # UID of each deleted object -> its last known revision

    def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        """The object with this name, or None."""
        return self._objects[kind].get(namespace, {}).get(name)

    def by_uid(self, uid: str) -> Obj | None:
        """The object with this UID, or None."""
        return self._by_uid.get(uid)

    def list(self, kind: str, namespace: str | None = None) -> Objects:
        """Objects of a kind, in one namespace or in all, sorted by name."""
        spaces = [namespace] if namespace is not None else sorted(self._objects[kind])
        return [obj for space in spaces for _, obj in sorted(self._objects[kind].get(space, {}).items())]

    def owned(self, kind: str, namespace: str, owner_uid: str) -> Objects:
        """Objects with `owner_uid` among their owners, sorted by name."""
        owned = self._by_owner.get((kind, owner_uid), {}).values()
        return sorted((obj for obj in owned if _namespace(obj) == namespace), key=_name)

    def put(self, obj: Obj) -> bool:
        """Store an object, unless the cache has a newer version or its deletion. Returns whether it was stored."""
        metadata = obj["metadata"]
        if self._gone.get(metadata["uid"], -1) >= _revision(obj):
            return False
        old = self.get(obj["kind"], _namespace(obj), _name(obj))
        if old is not None and _revision(old) >= _revision(obj):
            return False
        if old is not None:
            self._forget(old)
        obj = _slim(obj)
        self._objects[obj["kind"]].setdefault(_namespace(obj), {})[_name(obj)] = obj
        self._by_uid[metadata["uid"]] = obj
        for owner in metadata.get("ownerReferences") or []:
            self._by_owner[obj["kind"], owner["uid"]][metadata["uid"]] = obj
        return True

    def remove(self, obj: Obj) -> bool:
        """Remove the object with this UID: it was deleted, or lost the watched label. Returns whether it was cached.

        Later events with an older revision don't restore it. A newer revision does, if the object gets the label again.
        """
        uid = obj["metadata"]["uid"]
        known = self._by_uid.get(uid)
        last = int(obj["metadata"].get("resourceVersion") or 0)
        self._gone[uid] = max(last, _revision(known) if known else 0)
        if len(self._gone) > TOMBSTONES:
            self._gone.popitem(last=False)
        if known is None:
            return False
        self._forget(known)
        return True

    def ghosts(self, kind: str, namespace: str | None, listed: Iterable[str], revision: str) -> Objects:
        """Cached objects that are missing from a LIST at `revision`: the watch lost their deletion.

        `listed` are the UIDs of the LIST. Objects that changed after the LIST are not ghosts.
        """
        present = set(listed)
        return [
            obj
            for obj in self.list(kind, namespace)
            if obj["metadata"]["uid"] not in present and _revision(obj) <= int(revision)
        ]

    def _forget(self, obj: Obj) -> None:
        uid = obj["metadata"]["uid"]
        self._objects[obj["kind"]].get(_namespace(obj), {}).pop(_name(obj), None)
        self._by_uid.pop(uid, None)
        for owner in obj["metadata"].get("ownerReferences") or []:
            owned = self._by_owner[obj["kind"], owner["uid"]]
            owned.pop(uid, None)
            if not owned:
                del self._by_owner[obj["kind"], owner["uid"]]


def matching(objects: Iterable[Obj], labels: dict[str, str] | None) -> list[Obj]:
    """The objects that have all of `labels`."""
    wanted = (labels or {}).items()
    return [obj for obj in objects if wanted <= labels_of(obj).items()]


def _namespace(obj: Obj) -> str:
    return str(obj["metadata"]["namespace"])


def _name(obj: Obj) -> str:
    return str(obj["metadata"]["name"])


def _revision(obj: Obj) -> int:
    """resourceVersions of one kind can be compared as numbers. Kubernetes guarantees it since 1.35, and it was true
    before: https://github.com/kubernetes/enhancements/issues/5504"""
    return int(obj["metadata"]["resourceVersion"])


def _slim(obj: Obj) -> Obj:
    """The object without managedFields, if they are not needed: they are half of an object's size."""
    if RESOURCES[obj["kind"]].applied or "managedFields" not in obj["metadata"]:
        return obj
    return obj | {"metadata": {key: value for key, value in obj["metadata"].items() if key != "managedFields"}}
