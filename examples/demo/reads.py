"""Reads objects over persistent connections.

Each `kubectl get` needs a tenth of a second of CPU time before its first request. Polling with it took a fifth of two
cores.
"""

import json
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from driftloop.controller.runtime.kube.resources import Resource

Obj = dict[str, Any]

JSON = "application/json"
DISCOVERY = f"{JSON};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"  # every resource in one answer
TIMEOUT = 30.0  # seconds per request


class ReadError(RuntimeError):
    """The API server refused with the status `code`, or did not answer (0)."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Reads:
    """The objects of one cluster. Kinds are named as in kubectl: plural (with or without group), singular or short
    name.

    Every method raises ReadError.
    """

    def __init__(self, kubeconfig: Path | None) -> None:
        self._client = config.new_client_from_config(config_file=str(kubeconfig) if kubeconfig else None)
        self._kinds: dict[str, tuple[Resource, bool]] = {}  # with whether it is namespaced

    def get(self, kind: str, name: str, namespace: str) -> Obj | None:
        """Read an object; None if it does not exist."""
        resource, namespaced = self._kind(kind)
        try:
            return self._get(resource.path(namespace if namespaced else None, name))
        except ReadError as error:
            if error.code == 404:
                return None
            raise

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Obj]:
        """All objects of a kind that match the label selector."""
        resource, namespaced = self._kind(kind)
        query = {"labelSelector": selector} if selector else {}
        page = self._get(resource.path(namespace if namespaced else None), query)
        # Items of a list have neither field: https://github.com/kubernetes/kubernetes/issues/3030
        return [{"apiVersion": resource.api_version, "kind": resource.kind} | item for item in page["items"]]

    def _kind(self, kind: str) -> tuple[Resource, bool]:
        if kind not in self._kinds:  # the first call, or a new CRD
            self._kinds = self._discover()
        if kind not in self._kinds:
            raise ReadError(f"the API server has no resource {kind}")
        return self._kinds[kind]

    def _discover(self) -> dict[str, tuple[Resource, bool]]:
        kinds: dict[str, tuple[Resource, bool]] = {}
        for root in ("/api", "/apis"):
            for group in self._get(root, accept=DISCOVERY)["items"]:
                name = group["metadata"].get("name")
                for version in group["versions"]:  # the preferred version first
                    api_version = f"{name}/{version['version']}" if name else version["version"]
                    # An API server that is registered may have none, such as one for metrics.
                    for entry in version.get("resources", []):
                        resource = Resource(entry["responseKind"]["kind"], api_version, entry["resource"])
                        names = [entry["resource"], entry["singularResource"], *entry.get("shortNames", [])]
                        for alias in [*names, f"{entry['resource']}.{name}"]:
                            kinds.setdefault(alias, (resource, entry["scope"] == "Namespaced"))
        return kinds

    def _get(self, path: str, query: dict[str, str] | None = None, accept: str = JSON) -> Obj:
        request = self._client.param_serialize(
            "GET", path, query_params=query or {}, header_params={"Accept": accept}, auth_settings=["BearerToken"]
        )
        try:
            response = self._client.call_api(*request, _request_timeout=TIMEOUT)
            body = response.read()
        except (ApiException, HTTPError, OSError) as error:
            raise ReadError(f"GET {path}: {error}") from error
        if response.status != 200:
            raise ReadError(f"GET {path}: {response.status} {body.decode(errors='replace')[:300]}", response.status)
        document: Obj = json.loads(body)
        return document
