"""Requests to the API server, as JSON: kubernetes.aio brings connections and credentials, we the plain objects.

Its typed clients take three times the CPU a request and know nothing of our kinds.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

from driftloop.controller.runtime.kube.ratelimit import TokenBucket
from driftloop.controller.runtime.kube.resources import Resource
from driftloop.controller.runtime.metrics import API_REQUESTS
from driftloop.controller.vocabulary.plan import Obj

FIELD_MANAGER = "driftloop"
PAGE = 500
TIMEOUT = 30.0  # seconds a request

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class ApiError(Exception):
    """What the API server answered, or with code 0 that it did not.

    `reason` is the machine's word (AlreadyExists, Conflict, Invalid ...), `causes` the details of a Status.
    """

    def __init__(self, code: int, reason: str, message: str, causes: tuple[Mapping[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.causes = code, reason, message, causes
        self.lasts = False  # it was the answer again and again

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later without anybody acting, as far as one can tell by now."""
        return not self.lasts and (self.code in (0, 401, 408, 429) or self.code >= 500)

    @property
    def of_client(self) -> bool:
        """Whether the client itself was turned away, or reached nobody: it would be so with any other request."""
        return self.code in (0, 401, 429)

    def has_cause(self, reason: str) -> bool:
        """Whether a cause of that reason is among the details."""
        return any(cause.get("reason") == reason for cause in self.causes)


class NotLeading(Exception):
    """A write was attempted without a valid lease."""


async def credentials(kubeconfig: str | None) -> Any:
    """Server, certificates and tokens: from `kubeconfig`, else the pod's, else from $KUBECONFIG or ~/.kube/config."""
    found = client.Configuration()
    if not kubeconfig:
        try:
            config.load_incluster_config(client_configuration=found)
            return found
        except config.ConfigException:
            pass
    await config.load_kube_config(config_file=kubeconfig, client_configuration=found)
    return found


class Api:
    """The verbs that the operator needs. One instance belongs to one event loop.

    `may_write` is asked before every write: a leader that lost its lease must not end what it began.
    """

    def __init__(
        self, configuration: Any, limiter: TokenBucket | None = None, may_write: Callable[[], bool] = lambda: True
    ) -> None:
        # Else the session looks up netrc and proxies in two threads for every request.
        configuration.client_session_kwargs = {"trust_env": False}
        self._client = client.ApiClient(configuration)
        self._limiter = limiter
        self._may_write = may_write

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def version(self) -> Obj:
        """What the server says of itself: major, minor, gitVersion."""
        return await self._request("GET", "/version")

    async def get(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        """One object; None when there is none."""
        try:
            return await self._request("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def pages(
        self, resource: Resource, namespace: str | None, selector: str | None = None
    ) -> AsyncIterator[tuple[list[Obj], str]]:
        """The objects page by page, each with the resourceVersion of the whole list."""
        token = ""
        while True:
            query = {"limit": str(PAGE)}
            query |= {"continue": token} if token else {}
            query |= {"labelSelector": selector} if selector else {}
            page = await self._request("GET", resource.path(namespace), query=query)
            items = page.get("items") or []
            for item in items:  # items of a list lack what every single object has
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
            yield items, page["metadata"]["resourceVersion"]
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    async def create(self, resource: Resource, body: Obj) -> Obj:
        """Create; ApiError AlreadyExists when the name is taken."""
        path = resource.path(body["metadata"]["namespace"])
        return await self._request("POST", path, {"fieldManager": FIELD_MANAGER}, body, JSON)

    async def replace(self, resource: Resource, body: Obj) -> Obj:
        """Replace the whole object; ApiError Conflict when its resourceVersion is not the newest."""
        path = resource.path(body["metadata"]["namespace"], body["metadata"]["name"])
        return await self._request("PUT", path, {"fieldManager": FIELD_MANAGER}, body, JSON)

    async def apply(
        self,
        resource: Resource,
        body: Obj,
        *,
        subresource: str | None = None,
        manager: str = FIELD_MANAGER,
        force: bool = False,
    ) -> Obj:
        """Server-side apply. Without `force` a field that another manager owns is ApiError Conflict."""
        path = resource.path(body["metadata"]["namespace"], body["metadata"]["name"], subresource)
        query = {"fieldManager": manager, "force": str(force).lower()}
        return await self._request("PATCH", path, query, body, APPLY_PATCH)

    async def merge(
        self, resource: Resource, namespace: str, name: str, patch: Obj, subresource: str | None = None
    ) -> Obj:
        """JSON merge patch."""
        path = resource.path(namespace, name, subresource)
        return await self._request("PATCH", path, {"fieldManager": FIELD_MANAGER}, patch, MERGE_PATCH)

    async def delete(
        self, resource: Resource, namespace: str, name: str, uid: str, resource_version: str | None = None
    ) -> Obj:
        """Delete that very object, if need be only in that version, and its dependants in the background."""
        preconditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        body |= {"preconditions": preconditions}  # type: ignore[dict-item]
        return await self._request("DELETE", resource.path(namespace, name), None, body, JSON)

    async def _request(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Obj | None = None,
        content_type: str = JSON,
    ) -> Obj:
        if self._limiter:
            await self._limiter.acquire()
        if verb != "GET" and not self._may_write():
            raise NotLeading(f"{verb} {path} without the lease")
        configuration = self._client.configuration
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": "driftloop-operator"}
        if bearer := (await configuration.auth_settings()).get("BearerToken"):
            headers["Authorization"] = bearer["value"]
        url = configuration.host + path + (f"?{urlencode(query)}" if query else "")
        code = 0
        try:
            answer = await self._client.rest_client.request(
                verb, url, headers=headers, body=body, _request_timeout=aiohttp.ClientTimeout(total=TIMEOUT)
            )
            code = answer.status
            text = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, "Unreachable", f"{verb} {path}: {str(error) or type(error).__name__}") from error
        finally:
            API_REQUESTS.labels(verb, str(code)).inc()
        return _decode(code, text)


def _decode(code: int, text: bytes) -> Obj:
    try:
        found = json.loads(text)
    except ValueError:  # a proxy in between answers with a page
        found = {}
    if 200 <= code < 300 and isinstance(found, dict):
        return found
    if not isinstance(found, dict) or found.get("kind") != "Status":
        found = {"reason": "NoStatus", "message": text[:500].decode(errors="replace")}
    causes = (found.get("details") or {}).get("causes") or []
    raise ApiError(code, found.get("reason") or "Unknown", found.get("message") or "", tuple(causes))
