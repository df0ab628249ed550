"""What scales a service: controllers of Kubernetes, prometheus-adapter, and pods that export the real proxy's metrics.

The Deployments' pods are made by the real controllers. `Kubelet` starts them, and divides the load among them.
"""

import contextlib
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from prometheus_client import start_http_server

from control_plane.gateway import address
from control_plane.harness import Cluster, eventually
from control_plane.test_monitoring_chart import FakePod
from demo.reads import Reads
from driftloop.contract.names import METRICS_PORT
from driftloop.contract.task import ServeTask
from driftloop_server.proxy.metrics import Outcome, ProxyMetrics
from testcluster.binaries import binary
from testcluster.controlplane import ControlPlane, free_port
from testcluster.pki import base64_of

CONTROLLERS = ("deployment-controller", "replicaset-controller", "horizontal-pod-autoscaler-controller")
GROUPS = ("custom.metrics.k8s.io", "external.metrics.k8s.io")
ADAPTER = "prometheus-adapter"
_RBAC = "rbac.authorization.k8s.io"
_RIGHTS = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "metrics-reader"},
            "rules": [{"apiGroups": GROUPS, "resources": ["*"], "verbs": ["get", "list"]}],
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "metrics-reader"},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": "metrics-reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": "kube-system"}],
        },
    ],
}


@contextlib.contextmanager
def running(name: str, command: list[str], folder: Path) -> Iterator[None]:
    """A process until the end of the context, then the end of its log."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command], cwd=folder, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()
        print(f"--- {name}\n{log.read_text()[-4000:]}")


@contextlib.contextmanager
def controllers(plane: ControlPlane, folder: Path) -> Iterator[None]:
    """kube-controller-manager with CONTROLLERS, each with the rights of its own ServiceAccount.

    The HPA controller may also read metrics, which an installation of prometheus-adapter allows.
    """
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(_RIGHTS))
    kubeconfig = folder / "controllers.kubeconfig"
    kubeconfig.write_text(plane.kubeconfig_of("system:kube-controller-manager"))
    command = [
        str(binary("kube-controller-manager")),
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        "--use-service-account-credentials=true",
        f"--controllers={','.join(CONTROLLERS)}",
        "--horizontal-pod-autoscaler-sync-period=2s",
    ]
    with running("kube-controller-manager", command, folder):
        yield


@contextlib.contextmanager
def adapter(cluster: Cluster, rules: Path, prometheus: str, folder: Path) -> Iterator[None]:
    """prometheus-adapter with `rules`, as the API server of GROUPS."""
    plane, port = cluster.plane, free_port()
    host = f"{ADAPTER}.{cluster.namespace}.svc"
    serving = plane.authority.issue(f"adapter-{cluster.namespace}", names=[f"DNS:{host}"])
    command = [
        str(binary(ADAPTER)),
        *(f"--{use}-kubeconfig={plane.kubeconfig}" for use in ("lister", "authentication", "authorization")),
        f"--bind-address={address()}",
        f"--secure-port={port}",
        f"--tls-cert-file={serving.cert}",
        f"--tls-private-key-file={serving.key}",
        f"--prometheus-url={prometheus}",
        f"--config={rules}",
        "--metrics-relist-interval=2s",
        "--metrics-max-age=1m",
    ]
    cluster.create(*_registration(cluster, port, base64_of(plane.authority.ca.cert)))
    services = [f"apiservice/v1beta1.{group}" for group in GROUPS]
    try:
        with running(ADAPTER, command, folder):
            eventually(lambda: plane.kubectl("wait", "--for=condition=Available", "--timeout=5s", *services))
            yield
    finally:
        plane.kubectl("delete", *services)


def _registration(cluster: Cluster, port: int, authority: str) -> list[Any]:
    """A Service that leads to a port of this machine, and the APIServices of GROUPS."""
    metadata = {"name": ADAPTER, "namespace": cluster.namespace}
    named = {"name": "https", "protocol": "TCP"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"ports": [named | {"port": 443, "targetPort": port}]},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata | {"labels": {"kubernetes.io/service-name": ADAPTER}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address()], "conditions": {"ready": True}}],
        "ports": [named | {"port": port}],
    }
    groups = [
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1beta1.{group}"},
            "spec": {
                "group": group,
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": authority,
                "service": metadata,
            },
        }
        for group in GROUPS
    ]
    return [service, endpoints, *groups]


@dataclass
class _Pod:
    """A pod that runs: an address of this machine with the metrics of a proxy."""

    version: str
    metrics: ProxyMetrics
    server: Any  # None: its metrics can't be read


class Kubelet:
    """Makes the pods of the service `desk` ready at once, and divides the load evenly among them, as kube-proxy does.

    `load`: requests in progress. `silent`: the number of pods whose metrics are lost.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.load = self.silent = 0
        self.fewest = 0  # ready pods at any time since the test has set it
        self._cluster, self._reads = cluster, Reads(cluster.plane.kubeconfig)
        self._context = cluster.plane.admin_context()
        self._pods: dict[str, _Pod] = {}
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Kubelet":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._ends.set()
        self._thread.join()
        for pod in self._pods.values():
            _close(pod)

    def pods(self) -> dict[str, int]:
        """The number of ready pods of each version."""
        return dict(Counter(pod.version for pod in list(self._pods.values())))

    def _run(self) -> None:
        while not self._ends.wait(0.25):
            with contextlib.suppress(urllib.error.URLError):  # such as a pod that has just been deleted
                self._step()

    def _step(self) -> None:
        found = {body["metadata"]["uid"]: body for body in self._reads.list("pods", self._cluster.namespace)}
        for uid in self._pods.keys() - found.keys():
            _close(self._pods.pop(uid))
        for uid in found.keys() - self._pods.keys():
            self._pods[uid] = self._start(found[uid])
        self.fewest = min(self.fewest, len(self._pods))
        for number, pod in enumerate(self._pods.values()):
            pod.metrics.in_progress.set((self.load + number) // len(self._pods))
            pod.metrics.request("/v1/completions", 200, 0.2, Outcome(20, ending="complete"))
            if number < self.silent:
                _close(pod)

    def _start(self, body: Any) -> _Pod:
        labels, name = body["metadata"]["labels"], body["metadata"]["name"]
        version = labels["driftloop.dev/version"]
        task = ServeTask(
            namespace=self._cluster.namespace,
            service=labels["driftloop.dev/service"],
            service_uid="uid",
            family="family",
            version=version,
            revision=labels["driftloop.dev/revision"],
            artefact_uri="pvc://models/any",
            artefact_digest="sha256:" + "0" * 64,
        )
        metrics = ProxyMetrics(task)
        ip = FakePod(name, labels, METRICS_PORT, "metrics").address
        server = start_http_server(METRICS_PORT, ip, metrics.registry)[0]
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
        status = {"phase": "Running", "startTime": now, "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]}
        request = urllib.request.Request(
            f"{self._cluster.plane.server}/api/v1/namespaces/{self._cluster.namespace}/pods/{name}/status",
            data=json.dumps({"status": status}).encode(),
            headers={"Content-Type": "application/merge-patch+json"},
            method="PATCH",
        )
        urllib.request.urlopen(request, context=self._context, timeout=10).close()
        return _Pod(version, metrics, server)


def _close(pod: _Pod) -> None:
    if pod.server is not None:
        pod.server.shutdown()
        pod.server.server_close()
        pod.server = None


def autoscaler(example: Path) -> Any:
    """The HorizontalPodAutoscaler of an example, with shorter times."""
    body = yaml.safe_load(example.read_text())
    body["spec"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"] = 4
    body["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] = 8
    return body
