"""JSON requests to the API server. kubernetes.aio provides connections and credentials; objects are plain dicts.

Its typed clients need three times the CPU per request and do not know Driftloop's kinds.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
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
TIMEOUT = 30.0  # seconds per request

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class ApiError(Exception):
    """An error answer of the API server. Code 0: it did not answer.

    `reason` is the CamelCase reason of a Status (AlreadyExists, Conflict, Invalid …), and `causes` are its details.
    """

    def __init__(self, code: int, reason: str, message: str, causes: tuple[Mapping[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.causes = code, reason, message, causes
        self.lasts = False  # whether repeated requests got this answer

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later without a person's action, as far as known."""
        return not self.lasts and (self.code in (0, 401, 408, 429) or self.code >= 500)

    @property
    def of_client(self) -> bool:
        """Whether every other request would fail too: the server refused the client, or could not be reached."""
        return self.code in (0, 401, 429)

    def has_cause(self, reason: str) -> bool:
        """Whether the details contain a cause with this reason."""
        return any(cause.get("reason") == reason for cause in self.causes)


class NotLeading(Exception):
    """A write was attempted without holding the lease."""


async def credentials(kubeconfig: str | None) -> Any:
    """Load server, certificates and tokens: from `kubeconfig`, else the pod's, else $KUBECONFIG or ~/.kube/config."""
    configuration = client.Configuration()
    if not kubeconfig:
        try:
            config.load_incluster_config(client_configuration=configuration)
            return configuration
        except config.ConfigException:
            pass
    await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    return configuration


class Api:
    """The API verbs that the operator needs. One instance belongs to one event loop.

    `may_write` is called before every write: a leader that has lost its lease must not write any more.
    """

    def __init__(
        self,
        configuration: Any,
        limiter: TokenBucket | None = None,
        may_write: Callable[[], bool] = lambda: True,
        agent: str = "driftloop-operator",
    ) -> None:
        # kubernetes.aio sets trust_env. With it aiohttp reads netrc and proxies in two threads for every request, see
        # https://github.com/aio-libs/aiohttp/pull/11634
        configuration.client_session_kwargs = {"trust_env": False}
        self._client = client.ApiClient(configuration)
        self._limiter = limiter
        self._may_write = may_write
        self._agent = agent  # the User-Agent, as in the API server's audit log

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def version(self) -> Obj:
        """The server's version: major, minor, gitVersion."""
        return await self._request("GET", "/version")

    async def user(self) -> str | None:
        """The name by which the API server knows this client; None if the answer has none."""
        path, kind = "authentication.k8s.io/v1", "SelfSubjectReview"
        review = await self._request(
            "POST", f"/apis/{path}/selfsubjectreviews", None, {"apiVersion": path, "kind": kind}
        )
        return ((review.get("status") or {}).get("userInfo") or {}).get("username")

    async def serves(self, resource: Resource) -> bool:
        """Whether the server has this kind in this version."""
        try:
            found = await self._request("GET", f"/apis/{resource.api_version}")
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return any(entry.get("name") == resource.plural for entry in found.get("resources") or [])

    async def get(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        """Read one object; None if it does not exist."""
        try:
            return await self._request("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def pages(
        self, resource: Resource, namespace: str | None, selector: str | None = None
    ) -> AsyncIterator[tuple[list[Obj], str]]:
        """List objects page by page, each page with the resourceVersion of the whole list."""
        token = ""
        while True:
            query = {"limit": str(PAGE)}
            query |= {"continue": token} if token else {}
            query |= {"labelSelector": selector} if selector else {}
            page = await self._request("GET", resource.path(namespace), query=query)
            items = page.get("items") or []
            for item in items:  # in a list both are missing: https://github.com/kubernetes/kubernetes/issues/3030
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
            yield items, page["metadata"]["resourceVersion"]
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    async def watch(
        self, resource: Resource, namespace: str, name: str, since: str, seconds: int
    ) -> AsyncGenerator[tuple[str, Obj]]:
        """The events (ADDED, MODIFIED, DELETED) of one object after a resourceVersion, for at most `seconds`.

        If `since` is empty, an object that exists comes first, as ADDED. Raises ApiError, with code 410 if the
        resourceVersion is too old.
        """
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": since,
            "timeoutSeconds": str(seconds),
        }
        path = f"{resource.path(namespace)}?{urlencode(query)}"
        try:
            response = await self._send("GET", path, limit=seconds + TIMEOUT)
            if response.status != 200:
                _decode(response.status, await response.read())
            async for line in response.response.content:
                event = _decode(200, line)
                if event.get("type") == "ERROR":
                    _decode(int(event["object"].get("code") or 0), json.dumps(event["object"]).encode())
                yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, "Unreachable", f"watch {path}: {str(error) or type(error).__name__}") from error

    async def create(self, resource: Resource, body: Obj) -> Obj:
        """Create an object. Raises ApiError AlreadyExists if the name is in use."""
        path = resource.path(body["metadata"]["namespace"])
        return await self._request("POST", path, {"fieldManager": FIELD_MANAGER}, body, JSON)

    async def replace(self, resource: Resource, body: Obj) -> Obj:
        """Replace a whole object. Raises ApiError Conflict if its resourceVersion is not the newest."""
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
        strict: bool = False,
        dry_run: bool = False,
    ) -> Obj:
        """Server-side apply. Without `force`, raises ApiError Conflict if another manager owns a field.

        With `strict`, unknown fields are refused. With `dry_run`, everything is checked and nothing is written.
        """
        path = resource.path(body["metadata"]["namespace"], body["metadata"]["name"], subresource)
        query = {"fieldManager": manager, "force": str(force).lower()}
        query |= {"fieldValidation": "Strict"} if strict else {}
        query |= {"dryRun": "All"} if dry_run else {}
        return await self._request("PATCH", path, query, body, APPLY_PATCH)

    async def merge(
        self, resource: Resource, namespace: str, name: str, patch: Obj, subresource: str | None = None
    ) -> Obj:
        """Apply a JSON merge patch."""
        path = resource.path(namespace, name, subresource)
        return await self._request("PATCH", path, {"fieldManager": FIELD_MANAGER}, patch, MERGE_PATCH)

    async def delete(
        self, resource: Resource, namespace: str, name: str, uid: str, resource_version: str | None = None
    ) -> Obj:
        """Delete the object with this UID and, if given, this version. Its dependants are deleted in the background."""
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
            raise NotLeading(f"{verb} {path}: this replica does not hold the lease")
        code = 0
        try:
            response = await self._send(verb, path + (f"?{urlencode(query)}" if query else ""), body, content_type)
            code = response.status
            text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, "Unreachable", f"{verb} {path}: {str(error) or type(error).__name__}") from error
        finally:
            API_REQUESTS.labels(verb, str(code)).inc()
        return _decode(code, text)

    async def _send(
        self, verb: str, path: str, body: Obj | None = None, content_type: str = JSON, limit: float = TIMEOUT
    ) -> Any:
        configuration = self._client.configuration
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": self._agent}
        if bearer := (await configuration.auth_settings()).get("BearerToken"):
            headers["Authorization"] = bearer["value"]
        return await self._client.rest_client.request(
            verb,
            configuration.host + path,
            headers=headers,
            body=body,
            _request_timeout=aiohttp.ClientTimeout(total=limit),
        )


def _decode(code: int, text: bytes) -> Obj:
    try:
        document = json.loads(text)
    except ValueError:  # a proxy in between may answer with an HTML page
        document = {}
    if 200 <= code < 300 and isinstance(document, dict):
        return document
    if not isinstance(document, dict) or document.get("kind") != "Status":
        document = {"reason": "NoStatus", "message": text[:500].decode(errors="replace")}
    causes = (document.get("details") or {}).get("causes") or []
    raise ApiError(code, document.get("reason") or "Unknown", document.get("message") or "", tuple(causes))
