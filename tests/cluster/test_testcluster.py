"""The cluster's basic functions, which all other cluster tests need."""

from collections.abc import Iterator
from typing import Any

import pytest

from testcluster import wait
from testcluster.client import Cluster
from testcluster.console import Error

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["NODE"].encode())
print("listening", flush=True)
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> str:
    """An image with Python."""
    return cluster.provider.provide_images(["operator"])["operator"]


def pod(name: str, node: str, image: str, code: str, volumes: dict[str, str] | None = None) -> dict[str, Any]:
    """A pod on `node` that runs Python `code`. `volumes`: names of claims by mount path."""
    volumes = volumes or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in volumes.values()],
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["python3", "-c", code],
                    "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                    "volumeMounts": [{"name": claim, "mountPath": path} for path, claim in volumes.items()],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


@pytest.fixture
def servers(cluster: Cluster, namespace: str, image: str) -> list[str]:
    """The names of two pods, one per worker, behind the Service `web`. They answer HTTP with their node's name."""
    workers = cluster.workers()[:2]
    objects = [pod(f"web-{node}", node, image, SERVER) for node in workers]
    for server in objects:  # so that a pod is ready only when it listens
        server["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
    for obj in [*objects, service]:
        obj["metadata"]["namespace"] = namespace
    cluster.apply(*objects, service)
    cluster.kubectl("-n", namespace, "wait", "pod", "--all", "--for=condition=Ready", "--timeout=60s", seconds=70)
    return [f"web-{node}" for node in workers]


def answers(cluster: Cluster, namespace: str, caller: str, host: str, calls: int) -> set[str]:
    """The answers to `calls` requests from the pod `caller` to `host`; empty if one failed."""
    call = f"print(urlopen('http://{host}', timeout=5).read().decode())"
    code = f"from urllib.request import urlopen\nfor _ in range({calls}): {call}"
    try:
        return set(cluster.kubectl("-n", namespace, "exec", caller, "--", "python3", "-c", code).split())
    except Error:
        return set()


def test_pods_of_two_nodes_reach_each_other_by_address_service_and_name(
    cluster: Cluster, namespace: str, servers: list[str]
) -> None:
    nodes = {name.removeprefix("web-") for name in servers}
    service = cluster.get("-n", namespace, "service/web")["spec"]["clusterIP"]
    for caller in servers:
        for callee in servers:
            address = cluster.get("-n", namespace, f"pod/{callee}")["status"]["podIP"]
            assert answers(cluster, namespace, caller, f"{address}:8080", calls=1) == {callee.removeprefix("web-")}
        # With 30 calls, the chance that only one node answers is 2^-29. Repeated for some seconds, as the nodes learn
        # about the Service's pods a little later than the API server.
        for host in (service, f"web.{namespace}.svc.cluster.local"):
            wait.until(
                lambda caller=caller, host=host: answers(cluster, namespace, caller, host, calls=30) == nodes,  # type: ignore[misc]
                f"both nodes to answer {caller} through {host}",
                20,
            )


def test_logs_are_shown_and_a_deleted_pod_goes(cluster: Cluster, namespace: str, servers: list[str]) -> None:
    for name in servers:
        line = cluster.kubectl("-n", namespace, "logs", "--follow", "--limit-bytes=9", name)
        assert line == "listening"
    cluster.kubectl("-n", namespace, "delete", "pod", servers[0], "--timeout=30s")
    assert [left["metadata"]["name"] for left in cluster.get("-n", namespace, "pods")["items"]] == servers[1:]


def test_a_pod_that_asks_for_root_is_refused(cluster: Cluster, namespace: str, image: str) -> None:
    as_root = pod("root", cluster.workers()[0], image, "")
    as_root["metadata"]["namespace"] = namespace
    as_root["spec"]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(Error, match="runAsNonRoot"):
        cluster.apply(as_root)


@pytest.fixture
def claim(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A ReadWriteMany claim on a new volume."""
    cluster.provider.add_volume(namespace)
    spec = {
        "storageClassName": "",
        "volumeName": namespace,
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Gi"}},
    }
    metadata = {"name": "shared", "namespace": namespace}
    cluster.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
    yield "shared"
    cluster.kubectl("delete", "persistentvolume", namespace, "--wait=false")


def test_a_file_written_on_one_node_is_read_on_the_other(
    cluster: Cluster, namespace: str, image: str, claim: str
) -> None:
    first, second = cluster.workers()[:2]
    for name, node, code in (
        ("writer", first, "open('/shared/file', 'w').write('from the other node')"),
        ("reader", second, "print(open('/shared/file').read())"),
    ):
        runner = pod(name, node, image, code, {"/shared": claim})
        runner["metadata"]["namespace"] = namespace
        cluster.apply(runner)
        done = "--for=jsonpath={.status.phase}=Succeeded"
        cluster.kubectl("-n", namespace, "wait", f"pod/{name}", done, "--timeout=60s", seconds=70)
    assert cluster.kubectl("-n", namespace, "logs", "reader").strip() == "from the other node"
