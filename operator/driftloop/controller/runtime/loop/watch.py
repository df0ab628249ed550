"""Fills the caches: a LIST of everything at the start, then kopf's watches, and a LIST from time to time.

kopf's handlers only store the object and queue the custom resources that it concerns. They must not fail, because kopf
does not retry event handlers.
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
    """Keeps the caches up to date, and calls `enqueue` for the custom resources that a change concerns."""

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
        """LIST all watched kinds into the caches, and remove objects that no longer exist. Raises ApiError."""
        for resource in WATCHED:
            for namespace in self._namespaces:
                await self._list(resource, namespace)
        self._filled = True

    async def sync_until_done(self) -> None:
        """Repeat `sync` until it succeeds. Each failure is logged with a hint."""
        delay = 1.0
        while True:
            try:
                return await self.sync()
            except ApiError as error:
                ERRORS.labels("sync").inc()
                log.error("can't list the watched objects: %s%s", error, _hint(error))
            await asyncio.sleep(delay)
            delay = min(30.0, delay * 2)

    async def resync(self, period: float) -> None:
        """LIST and queue every custom resource, every `period` seconds plus or minus a fifth.

        The first resync comes early, because no event shows objects that were deleted between the first LIST and
        kopf's.
        """
        wait = min(FIRST_RESYNC, period)
        while True:
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
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
        """kopf's handlers: one per kind, and a login with the operator's credentials."""
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, id="credentials")(_login(credentials))
        for resource in WATCHED:
            kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=resource.plural)(
                self._handler(resource)
            )
        return registry

    def take(self, obj: Obj, deleted: bool) -> None:
        """Handle one watch event. Nothing is queued until the caches are filled, as everything will be queued then."""
        changed = self._caches.remove(obj) if deleted else self._caches.put(obj)
        if changed and self._filled:
            self.changed(obj)

    def changed(self, obj: Obj) -> None:
        """Queue the custom resources that a changed object concerns. The object is already in the caches."""
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
    """Stores nothing to compare with. By default kopf copies the object of every event for diffs (not reported)."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        """Copies nothing of the object."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Returns None: nothing was stored."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Stores nothing."""


def kopf_settings() -> kopf.OperatorSettings:
    """Settings to use kopf only for watches: no Events, no peering, no scanning of CRDs and namespaces, no diffs."""
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
        return " (the operator's role lacks a right, or the operator watches a namespace without a Role)"
    return ""
