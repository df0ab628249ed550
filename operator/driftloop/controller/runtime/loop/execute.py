"""Executes a plan: first each group independently, then the chain. Each stops at its first failure.

Every response goes into the caches. A refused group becomes a condition and is tried again. Nothing is written if the
object is already as desired, so a plan for a settled object sends no request.

A cache may be stale. So a write contains preconditions, depending on the damage that a stale decision could do:

- Adjust, Delete, FailPod: UID and resourceVersion. A stale write could remove pods that serve by now, delete a result
  that has just arrived, or fail a pod whose node is back.
- Status: UID and resourceVersion of the object. A stale write could undo changes of other writers.
- Apply: UID, if the object exists. Its content depends on the parent's spec, not on its own state. The next reconcile
  corrects old content, and fields of other managers are refused.
- Label: UID. The label depends on other objects, so the resourceVersion of its own object proves nothing.
- Annotate: UID. The annotations do not depend on the state of their object either.
- Create: none. The name contains a hash of the owner's UID, so an existing object can be recognised.

If a write is refused as stale, the object is read again, and the rest of the plan is not executed.
"""

import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import assert_never

from pydantic import BaseModel

from driftloop.controller.runtime.kube import applied, ownership
from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.kube.events import Recorder
from driftloop.controller.runtime.kube.resources import RESOURCES, Resource
from driftloop.controller.runtime.kube.status import merge_patch, wanted_status, without_foreign
from driftloop.controller.runtime.loop.refusals import Refusals, identity, target
from driftloop.controller.vocabulary.conditions import CHILDREN_REFUSED, MAX_EVENT, condition, find, merge, shorten
from driftloop.controller.vocabulary.labels import MANAGED_BY
from driftloop.controller.vocabulary.objects import has_ended
from driftloop.controller.vocabulary.objects import key as key_of
from driftloop.controller.vocabulary.plan import (
    Action,
    Adjust,
    Annotate,
    Apply,
    Create,
    Delete,
    Disrupt,
    Event,
    FailPod,
    Group,
    Key,
    Label,
    NameTaken,
    Obj,
    Plan,
)
from driftloop.controller.vocabulary.reasons import Reason

log = logging.getLogger(__name__)

PATIENCE = 6  # attempts after which a transient error is reported: about 10 seconds


class FieldConflict(Exception):
    """Another field manager owns a field that the operator would set."""


class Stale(Exception):
    """The object has changed since it was observed: observe again."""


Refused = NameTaken | FieldConflict | ApiError
REFUSED = (NameTaken, FieldConflict, ApiError)


@dataclass(frozen=True)
class Refusal:
    """A refused action."""

    reason: Reason | None  # None: transient, it will succeed later without a person's action
    message: str


@dataclass(frozen=True)
class Executed:
    """Result of executing a plan."""

    wrote: bool
    refused: bool = False  # a group was refused and must be tried again


class Halted(Exception):
    """The chain was refused."""

    def __init__(
        self, error: Refused, kept: Obj, events: Sequence[Event] = (), refusals: Sequence[Refusal] = ()
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.kept = kept  # status fields of the groups, which are still valid
        self.events = events  # of the groups that succeeded
        self.refusals = refusals  # of the groups that were refused


@dataclass
class _Groups:
    """Results of the groups."""

    wrote: bool
    status: Obj  # fields that replace the plan's
    events: list[Event]
    refusals: list[Refusal]


class Executor:
    """Executes plans.

    `changed` is called for every object that a write created or changed. The watch event comes later, when the cache
    already has the object, so it queues nothing. Without the call, a ModelVersion that a job created would wait for the
    next resync.
    """

    def __init__(
        self,
        api: Api,
        caches: Caches,
        recorder: Recorder,
        changed: Callable[[Obj], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        refusals: Refusals | None = None,
    ) -> None:
        self._api = api
        self._caches = caches
        self._recorder = recorder
        self._changed = changed
        self._now = now
        self._refusals = refusals or Refusals()

    async def execute(self, parent: Obj, plan: Plan, status_model: type[BaseModel]) -> Executed:
        """Execute the actions, then post the events, then write the status.

        A refused write is repeated with a back-off. Until then it counts as refused without a request.

        Raises:
            Halted: the chain was refused.
            Stale: an object has changed since it was observed. Nothing more was written.
            ApiError: every request would fail. Nothing more was written. Also from `report`.
            ValidationError: from `report`.
        """
        refused: set[Hashable] = set()
        try:
            return await self._execute(parent, plan, status_model, refused)
        finally:
            self._refusals.keep(key_of(parent), refused)

    def ask_again(self, key: Key) -> float | None:
        """Seconds until the first refused write of an object is repeated; None if nothing was refused."""
        return self._refusals.ask_again(key)

    def forget(self, key: Key) -> None:
        """Forget the refused writes of a deleted object."""
        self._refusals.keep(key, set())

    async def report(
        self, parent: Obj, status: Obj | None, events: Iterable[Event], model: type[BaseModel], wrote: bool = False
    ) -> bool:
        """Post the events, then write the status. Returns whether the status differed.

        Events are only posted if something changed: the status, or something else if `wrote`. They come before the
        status, because the new status often prevents the next plan from repeating them.

        Raises:
            Stale: the object has changed since it was observed.
            ApiError: the status was refused.
            ValidationError: `status` does not match `model`.
        """
        patch = self._status_patch(parent, status, model)
        if wrote or patch:
            for event in events:
                await self._recorder.record(parent, event)
        if patch:
            await self._patch_status(parent, patch)
        return bool(patch)

    async def _execute(self, parent: Obj, plan: Plan, model: type[BaseModel], refused: set[Hashable]) -> Executed:
        groups = await self._beside(parent, plan.beside, refused)
        wrote = groups.wrote
        plan = replace(
            plan,
            status=None if plan.status is None else plan.status | groups.status,
            events=(*plan.events, *groups.events),
        )
        try:
            for action in plan.actions:
                wrote |= await self._attempt(parent, action, refused)
        except REFUSED as error:
            raise Halted(error, _kept(plan), groups.events, groups.refusals) from error
        status, events = with_refusals(parent, plan, groups.refusals, self._now())
        reported = await self.report(parent, status, events, model, wrote)
        return Executed(wrote or reported, bool(groups.refusals))

    async def _beside(self, parent: Obj, groups: Iterable[Group], refused: set[Hashable]) -> _Groups:
        """Try each group, even if others are refused."""
        outcome = _Groups(False, {}, [], [])
        for group in groups:
            try:
                for action in group.actions:
                    outcome.wrote |= await self._attempt(parent, action, refused)
            except REFUSED as error:
                if isinstance(error, ApiError) and error.of_client:
                    raise
                log.warning("refused: %s", error)
                outcome.refusals.append(refusal(error))
                outcome.status |= group.undone
            else:
                outcome.events += group.events
        return outcome

    async def _attempt(self, parent: Obj, action: Action, refused: set[Hashable]) -> bool:
        """Execute the action, unless it was refused a short time ago. Refused writes are added to `refused`."""
        key = key_of(parent)
        kind, namespace, name = target(action)
        live = self._caches.get(kind, namespace, name) if RESOURCES[kind].watched else None
        write = identity(action, parent, live)
        if error := self._refusals.held(key, write):
            refused.add(write)
            raise error.with_traceback(None)
        try:
            return await self._act(action)
        except REFUSED as error:
            if isinstance(error, ApiError) and error.of_client:
                raise
            refused.add(write)
            attempts = self._refusals.note(key, write, error)
            if isinstance(error, ApiError):
                error.lasts = attempts >= PATIENCE
            raise

    async def _act(self, action: Action) -> bool:
        match action:
            case Create(body):
                return await self._create(applied.stamped(body))
            case Apply(body):
                return await self._apply(applied.stamped(body))
            case Delete():
                return await self._delete(action)
            case Label():
                return await self._label(action)
            case Annotate():
                return await self._annotate(action)
            case FailPod():
                return await self._disrupt(action, "NodeLost", {"phase": "Failed"})
            case Disrupt():
                return await self._disrupt(action, "MakesRoom", {})
            case Adjust():
                return await self._adjust(action)
            case _:
                assert_never(action)

    async def _create(self, body: Obj) -> bool:
        resource = RESOURCES[body["kind"]]
        if (known := self._known(resource, body)) and ownership.same_origin(body, known):
            return False
        try:
            self._caches_put(resource, await self._api.create(resource, body))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            if resource.kind == "Secret":
                return False  # Secrets are never read; the name contains a hash of the parent's UID
            await self._check_origin(resource, body)
        return True

    async def _check_origin(self, resource: Resource, body: Obj) -> None:
        live = await self._live(resource, body)
        if live is None:
            raise Stale(f"{resource.kind} {body['metadata']['name']} existed and is deleted")
        if not ownership.same_origin(body, live):
            raise NameTaken(ownership.describe(live))
        if not applied.is_stamped(live):  # the label was removed, so the watches don't show the object
            metadata = live["metadata"]
            label = {"metadata": {"labels": dict([MANAGED_BY]), "uid": metadata["uid"]}}
            live = await self._api.merge(resource, metadata["namespace"], metadata["name"], label)
        self._caches_put(resource, live)

    async def _apply(self, body: Obj) -> bool:
        resource = RESOURCES[body["kind"]]
        # An object without the managed-by label is not cached, and applying would take it over: so read it first.
        live = self._known(resource, body) or await self._live(resource, body)
        wanted = applied.hashed(body)
        if live is not None:
            if not ownership.same_origin(body, live):
                raise NameTaken(ownership.describe(live))
            if applied.is_applied(body, live):
                self._caches_put(resource, live)
                return False
            wanted = wanted | {"metadata": wanted["metadata"] | {"uid": live["metadata"]["uid"]}}
        try:
            response = await self._api.apply(resource, wanted)
        except ApiError as error:
            if error.has_cause("FieldManagerConflict"):
                raise FieldConflict(_conflict(resource, body, error)) from error
            if isinstance(stale := _stale(error), Stale):
                await self._refresh(resource, body["metadata"]["namespace"], body["metadata"]["name"])
            raise stale from error
        self._caches_put(resource, response)
        return True

    async def _delete(self, action: Delete) -> bool:
        resource = RESOURCES[action.kind]
        namespace, name = action.namespace, action.name
        try:
            response = await self._api.delete(resource, namespace, name, action.uid, action.resource_version)
        except ApiError as error:
            if error.code not in (404, 409):
                raise
            live = await self._refresh(resource, namespace, name) if error.code == 409 else None
            if live is not None and live["metadata"]["uid"] == action.uid:
                raise Stale(error.message) from error
            response = {"kind": "Status"}  # the object is deleted, and another one may have its name by now
        if not resource.watched:
            return True
        if response.get("kind") == "Status":
            self._caches.remove({"metadata": {"uid": action.uid}})
        else:  # the object still exists: it has finalizers or a grace period
            self._caches_put(resource, response)
        return True

    async def _label(self, action: Label) -> bool:
        kind, namespace, name = action.key
        live = self._caches.get(kind, namespace, name)
        if live is None:
            return False
        changes = _changes(live["metadata"].get("labels"), action.labels)
        if not changes:
            return False
        metadata = {"labels": changes, "uid": action.uid}
        return await self._merge(RESOURCES[kind], namespace, name, {"metadata": metadata})

    async def _annotate(self, action: Annotate) -> bool:
        live = self._caches.get("Job", action.namespace, action.name)
        if live is None or not (changes := _changes(live["metadata"].get("annotations"), action.annotations)):
            return False
        patch = {"metadata": {"annotations": changes, "uid": action.uid}}
        return await self._merge(RESOURCES["Job"], action.namespace, action.name, patch)

    async def _adjust(self, action: Adjust) -> bool:
        live = self._caches.get("Deployment", action.namespace, action.name)
        if live is None or not (patch := adjustment(action, live)):
            return False
        patch["metadata"] = patch.get("metadata", {}) | _guard(action)
        return await self._merge(RESOURCES["Deployment"], action.namespace, action.name, patch)

    async def _disrupt(self, action: FailPod | Disrupt, reason: str, status: Obj) -> bool:
        resource = RESOURCES["Pod"]
        pod = self._caches.get("Pod", action.namespace, action.name)
        if pod is None or pod["metadata"]["uid"] != action.uid or has_ended(pod):
            return False
        metadata = {"name": action.name, "namespace": action.namespace, **_guard(action)}
        # The pod garbage collector sets this condition too. With it the Job's failure policy recognises a disruption.
        disrupted = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": action.message}
        status = status | {"conditions": [disrupted]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}
        write = self._api.apply(resource, body, subresource="status", force=True)
        return await self._guarded(write, resource, action.namespace, action.name)

    def _status_patch(self, parent: Obj, status: Obj | None, model: type[BaseModel]) -> Obj | None:
        if status is None:
            return None
        patch: Obj | None = merge_patch(without_foreign(parent.get("status") or {}), wanted_status(status, model))
        return patch

    async def _patch_status(self, parent: Obj, patch: Obj) -> None:
        metadata = parent["metadata"]
        guarded = {"metadata": {key: metadata[key] for key in ("uid", "resourceVersion")}, "status": patch}
        await self._merge(RESOURCES[parent["kind"]], metadata["namespace"], metadata["name"], guarded, "status")

    async def _merge(
        self, resource: Resource, namespace: str, name: str, patch: Obj, subresource: str | None = None
    ) -> bool:
        write = self._api.merge(resource, namespace, name, patch, subresource)
        return await self._guarded(write, resource, namespace, name)

    async def _guarded(self, write: Awaitable[Obj], resource: Resource, namespace: str, name: str) -> bool:
        """Await `write` and return True. If the object has changed or is gone, updates the caches and raises Stale."""
        try:
            self._caches_put(resource, await write)
        except ApiError as error:
            if error.code == 404 or isinstance(_stale(error), Stale):
                await self._refresh(resource, namespace, name)
                raise Stale(error.message) from error
            raise
        return True

    async def _refresh(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        """Read the current object into the caches, instead of waiting for the watch to show why a write was stale."""
        live = await self._api.get(resource, namespace, name)
        if live is not None:
            self._caches_put(resource, live)
        elif resource.watched and (ghost := self._caches.get(resource.kind, namespace, name)):
            self._caches.remove(ghost)
        return live

    def _known(self, resource: Resource, body: Obj) -> Obj | None:
        metadata = body["metadata"]
        return self._caches.get(resource.kind, metadata["namespace"], metadata["name"]) if resource.watched else None

    async def _live(self, resource: Resource, body: Obj) -> Obj | None:
        return await self._api.get(resource, body["metadata"]["namespace"], body["metadata"]["name"])

    def _caches_put(self, resource: Resource, obj: Obj) -> None:
        if resource.watched and self._caches.put(obj):
            self._changed(obj)


def refusal(error: Refused) -> Refusal:
    """The reason and message for a failure. The reason is None if the failure is transient. Pure."""
    match error:
        case NameTaken():
            return Refusal(Reason.NAME_TAKEN, str(error))
        case FieldConflict():
            return Refusal(Reason.FIELD_CONFLICT, str(error))
        case ApiError():
            transient = error.transient or error.has_cause("NamespaceTerminating")
            return Refusal(None if transient else Reason.API_REFUSED, f"the API server refused: {error}")
        case _:
            assert_never(error)


def _kept(plan: Plan) -> Obj:
    """The status fields that belong to groups. None removes a field."""
    status = plan.status or {}
    return {name: status.get(name) for group in plan.beside for name in group.fields}


def with_refusals(
    parent: Obj, plan: Plan, refusals: Iterable[Refusal], now: datetime
) -> tuple[Obj | None, tuple[Event, ...]]:
    """The plan's status and events, with a condition and one Event for refused groups. Pure."""
    reported = [refusal for refusal in refusals if refusal.reason is not None]
    if plan.status is None:
        return None, plan.events
    others = [entry for entry in plan.status.get("conditions") or [] if entry["type"] != CHILDREN_REFUSED]
    if not reported:
        return plan.status | {"conditions": others}, plan.events
    first = next(iter(reported))
    message = "; ".join(dict.fromkeys(refusal.message for refusal in reported))
    assert first.reason is not None
    refused = condition(CHILDREN_REFUSED, "True", first.reason, message)
    old = (parent.get("status") or {}).get("conditions") or []
    generation = parent["metadata"].get("generation")
    conditions = [*others, *merge(old, [refused], generation, now)]
    known = find(old, CHILDREN_REFUSED)
    event = Event("Warning", first.reason, shorten(message, MAX_EVENT))
    events = plan.events if known and known.get("message") == refused.message else (*plan.events, event)
    return plan.status | {"conditions": conditions}, events


def adjustment(action: Adjust, live: Obj) -> Obj:
    """The merge patch of `action` for a Deployment; empty if the Deployment is already as desired."""
    metadata = {
        name: changes
        for name, wanted in (("labels", action.labels), ("annotations", action.annotations))
        if (changes := _changes(live["metadata"].get(name), wanted))
    }
    patch: Obj = {"metadata": metadata} if metadata else {}
    if action.replicas is not None and live["spec"].get("replicas") != action.replicas:
        patch["spec"] = {"replicas": action.replicas}
    return patch


def _guard(action: Adjust | FailPod | Disrupt) -> dict[str, str]:
    """The preconditions of a write: it is refused for another object, or for a newer state of the same object."""
    version = action.resource_version
    return {"uid": action.uid} | ({"resourceVersion": version} if version is not None else {})


def _changes(old: dict[str, str] | None, wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    """The entries of `wanted` that differ from `old`. None removes a key."""
    return {key: value for key, value in wanted.items() if (old or {}).get(key) != value}


def _stale(error: ApiError) -> Exception:
    """Stale if a precondition (UID or resourceVersion) was not met; else `error`.

    For built-in kinds, a patch with another UID is refused with 422: "metadata.uid: field is immutable".
    """
    other_uid = any(cause.get("field") == "metadata.uid" for cause in error.causes)
    return Stale(error.message) if error.code == 409 or other_uid else error


def _conflict(resource: Resource, body: Obj, error: ApiError) -> str:
    details = "; ".join(
        f"{cause.get('field')}: {cause.get('message')}"
        for cause in error.causes
        if cause.get("reason") == "FieldManagerConflict"
    )
    return (
        f"{resource.kind} {body['metadata']['name']} has fields that another client set ({details}): "
        f"undo that change, or delete the object so that the operator creates it again"
    )
