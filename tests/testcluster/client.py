"""The running cluster, for tests."""

import json
from dataclasses import dataclass
from typing import Any

from testcluster.controlplane import kubectl
from testcluster.paths import KUBECONFIG
from testcluster.providers import Provider


@dataclass(frozen=True)
class Cluster:
    """A cluster with two workers. `provider` has the operations that kubectl can't do."""

    provider: Provider
    kubeconfig = KUBECONFIG

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        """Run kubectl as administrator and return its output. Raises Error with kubectl's message."""
        return kubectl(self.kubeconfig, *arguments, stdin=stdin, seconds=seconds)

    def get(self, *arguments: str) -> Any:
        """The parsed output of `kubectl get`."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply `objects` with one call of kubectl."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def workers(self) -> list[str]:
        """The names of the nodes without taints."""
        nodes = self.get("nodes")["items"]
        return sorted(node["metadata"]["name"] for node in nodes if "taints" not in node["spec"])
