"""Fills the caches: one LIST of everything at the start, kopf's watches from then on, and a LIST now and again.

kopf's handlers take the object in and queue whoever it concerns: nothing that could fail, as kopf retries nothing.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import kopf

from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.kube.resources import WATCHED, Resource
from driftloop.controller.runtime.loop.concerns import keys_for
from driftloop.controller.runtime.metrics import ERRORS
from driftloop.controller.vocabulary.kind import CUSTOM, Kind
from driftloop.controller.vocabulary.objects import key
from driftloop.controller.vocabulary.plan import Key, Obj

log = logging.getLogger(__name__)
FIRST_RESYNC = 10.0  # seconds
Enqueue = Callable[[Key], None]


class Watcher:
    """Keeps the caches true and tells `enqueue` what has changed."""

    def __init__(
        self, api: Api, caches: Caches, kinds: Iterable[Kind[Any]], enqueue: Enqueue, namespaces: Sequence[str]
    ) -> None:
        self._api = api
        self._caches = caches
        self._kinds = tuple(kinds)
        self._enqueue = enqueue
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._filled = False

    async def sync(self) -> None:
        """LIST every watched kind into the caches. Objects that are gone are dropped. Raises ApiError."""
        for resource in WATCHED:
            for namespace in self._namespaces:
                await self._list(resource, namespace)
        self._filled = True

    async def sync_until_done(self) -> None:
        """The same until it works, saying what is missing."""
        delay = 1.0
        while True:
            try:
                return await self.sync()
            except ApiError as error:
                ERRORS.labels("sync").inc()
                log.error("can't list what is to be watched: %s%s", error, _hint(error))
            await asyncio.sleep(delay)
            delay = min(30.0, delay * 2)

    async def resync(self, period: float) -> None:
        """Every `period` seconds, give or take a fifth: LIST, and queue every custom resource.

        The first time soon: what was deleted between our LIST and kopf's own no event tells.
        """
        wait = min(FIRST_RESYNC, period)
        while True:
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
            wait = period
            try:
                await self.sync()
            except ApiError as error:
                ERRORS.labels("sync").inc()
                log.warning("resync failed: %s", error)
            self.enqueue_all()

    def enqueue_all(self) -> None:
        """Queue every custom resource."""
        for kind in CUSTOM:
            for obj in self._caches.list(kind):
                self._enqueue(key(obj))

    def registry(self, credentials: Any) -> kopf.OperatorRegistry:
        """kopf's handlers: one per kind, and the login with the credentials that we have anyway."""
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, id="credentials")(_login(credentials))
        for resource in WATCHED:
            kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=resource.plural)(
                self._handler(resource)
            )
        return registry

    def take(self, obj: Obj, deleted: bool) -> None:
        """One event of a watch. Until the caches are filled nobody is told: everybody will be queued then."""
        changed = self._caches.remove(obj) if deleted else self._caches.put(obj)
        if changed and self._filled:
            self.changed(obj)

    def changed(self, obj: Obj) -> None:
        """Queue whoever an object concerns that the caches have taken in."""
        for concerned in keys_for(obj, self._kinds, self._caches):
            self._enqueue(concerned)

    def _handler(self, resource: Resource) -> Callable[..., Any]:
        async def on_event(event: Any, **_: Any) -> None:
            obj = {"apiVersion": resource.api_version, "kind": resource.kind, **event["object"]}
            self.take(obj, deleted=event["type"] == "DELETED")

        return on_event

    async def _list(self, resource: Resource, namespace: str | None) -> None:
        listed: list[str] = []
        revision = "0"
        async for items, revision in self._api.pages(resource, namespace, resource.selector):  # noqa: B007
            for obj in items:
                listed.append(obj["metadata"]["uid"])
                self.take(obj, deleted=False)
        for ghost in self._caches.ghosts(resource.kind, namespace, listed, revision):
            self.take(ghost, deleted=True)


class NoDiffs(kopf.DiffBaseStorage):
    """Keeps nothing to compare with: kopf copies every object of every event for diffs, and no handler wants one."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        """Nothing of the object."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing was kept."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Keeps nothing."""


def kopf_settings() -> kopf.OperatorSettings:
    """kopf for watches alone: no Events, no peering, no look at CRDs and namespaces, no diffs."""
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = NoDiffs()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.chunk_size = 500
    for resource in WATCHED:
        if resource.selector:
            settings.watching.label_selectors[resource.group, resource.version, resource.plural] = resource.selector
    return settings


def _login(credentials: Any) -> Callable[..., Any]:
    async def login(**_: Any) -> kopf.ConnectionInfo:
        bearer = ((await credentials.auth_settings()).get("BearerToken") or {}).get("value") or ""
        return kopf.ConnectionInfo(
            server=credentials.host,
            ca_path=credentials.ssl_ca_cert,
            insecure=not credentials.verify_ssl,
            token=bearer.partition(" ")[2] or None,
            certificate_path=credentials.cert_file,
            private_key_path=credentials.key_file,
        )

    return login


def _hint(error: ApiError) -> str:
    if error.code == 404:
        return " (are the CRDs installed? kubectl apply -f crds/)"
    if error.code == 403:
        return " (the operator's role lacks a right, or it watches more namespaces than it may)"
    return ""
