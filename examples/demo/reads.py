"""Objects read over connections that stay open.

Each `kubectl get` takes a tenth of a second of CPU before it asks anything: polls by it took a fifth of two cores.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

Obj = dict[str, Any]

JSON = "application/json"
DISCOVERY = f"{JSON};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"  # every resource in one answer
TIMEOUT = 30.0  # seconds a request


class ReadError(RuntimeError):
    """The API server refused or did not answer."""


@dataclass(frozen=True)
class Resource:
    """Where the objects of a kind are."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool

    def path(self, namespace: str, name: str = "") -> str:
        root = "api" if "/" not in self.api_version else "apis"
        scope = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"/{root}/{self.api_version}{scope}/{self.plural}" + (f"/{name}" if name else "")


class Reads:
    """The objects of one cluster; a kind is named as for kubectl: plural (with its group or without), singular, short.

    Every method raises ReadError.
    """

    def __init__(self, kubeconfig: Path | None) -> None:
        self._client = config.new_client_from_config(config_file=str(kubeconfig) if kubeconfig else None)
        self._resources: dict[str, Resource] = {}

    def get(self, kind: str, name: str, namespace: str) -> Obj | None:
        """An object; None when there is none."""
        return self._get(self._resource(kind).path(namespace, name))

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Obj]:
        """All objects of a kind with the labels that `selector` asks for."""
        resource = self._resource(kind)
        found = self._get(resource.path(namespace), {"labelSelector": selector} if selector else {})
        items: list[Obj] = (found or {}).get("items") or []
        # Items of a list lack what every single object has.
        return [{"apiVersion": resource.api_version, "kind": resource.kind} | item for item in items]

    def _resource(self, kind: str) -> Resource:
        if kind not in self._resources:  # the first, or a definition that is new
            self._resources = self._discover()
        if kind not in self._resources:
            raise ReadError(f"the API server has no resource {kind}")
        return self._resources[kind]

    def _discover(self) -> dict[str, Resource]:
        found: dict[str, Resource] = {}
        for root in ("/api", "/apis"):
            for group in (self._get(root, accept=DISCOVERY) or {}).get("items", []):
                name = group["metadata"].get("name")
                for version in group["versions"]:  # the preferred one first
                    api_version = f"{name}/{version['version']}" if name else version["version"]
                    for each in version["resources"]:
                        resource = Resource(
                            api_version,
                            each["responseKind"]["kind"],
                            each["resource"],
                            each["scope"] == "Namespaced",
                        )
                        names = [each["resource"], each["singularResource"], *each.get("shortNames", [])]
                        for alias in [*names, f"{each['resource']}.{name}"]:
                            found.setdefault(alias, resource)
        return found

    def _get(self, path: str, query: dict[str, str] | None = None, accept: str = JSON) -> Obj | None:
        request = self._client.param_serialize(
            "GET", path, query_params=query or {}, header_params={"Accept": accept}, auth_settings=["BearerToken"]
        )
        try:
            response = self._client.call_api(*request, _request_timeout=TIMEOUT)
            body = response.read()
        except (ApiException, HTTPError, OSError) as error:
            raise ReadError(f"GET {path}: {error}") from error
        if response.status == 404:
            return None
        answer: Obj = json.loads(body)
        if response.status != 200:
            raise ReadError(f"GET {path}: {response.status} {answer.get('message')}")
        return answer
