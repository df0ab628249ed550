"""Reading objects from a real API server, in the same way as the demo and the tests."""

import json
import urllib.request
from pathlib import Path

import pytest

from control_plane.harness import Cluster, eventually
from control_plane.objects import finetunejob
from demo.reads import DISCOVERY, ReadError, Reads
from testcluster.controlplane import ControlPlane, free_port

pytestmark = pytest.mark.control_plane


@pytest.mark.parametrize("kind", ["finetunejobs", "finetunejob", "ftj", "finetunejobs.driftloop.dev"])
def test_a_kind_is_named_as_for_kubectl(cluster: Cluster, reads: Reads, kind: str) -> None:
    cluster.create(finetunejob("one"))
    found = reads.get(kind, "one", cluster.namespace)
    assert found is not None
    assert found["kind"] == "FineTuneJob"
    assert reads.list(kind, cluster.namespace) == [found]
    assert reads.list(kind, cluster.namespace, "other=label") == []


def test_what_is_not_there_is_none(cluster: Cluster, reads: Reads) -> None:
    assert reads.get("ftj", "none", cluster.namespace) is None
    assert reads.list("ftj", "no-such-namespace") == []


def test_a_kind_outside_namespaces_needs_none(cluster: Cluster, reads: Reads) -> None:
    found = reads.get("namespace", cluster.namespace, "")
    assert found is not None
    assert found in reads.list("namespaces", "")


def test_a_kind_that_is_defined_later_is_found(cluster: Cluster, reads: Reads) -> None:
    with pytest.raises(ReadError, match="no resource widgets"):
        reads.list("widgets", cluster.namespace)
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object"}},
    }
    cluster.create(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.org"},
            "spec": {"group": "example.org", "scope": "Namespaced", "names": names, "versions": [version]},
        }
    )
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/widgets.example.org")
    assert reads.list("widgets", cluster.namespace) == []


def test_a_registered_api_server_that_does_not_answer_hides_no_other_kind(plane: ControlPlane) -> None:
    """As with an adapter of metrics before its first metric: the API server lists its version without resources."""
    group = "metrics.example.org"
    body = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"v1.{group}"},
        "spec": {
            "group": group,
            "version": "v1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"name": "missing", "namespace": "default"},
        },
    }
    plane.kubectl("create", "-f", "-", stdin=json.dumps(body))
    try:
        request = urllib.request.Request(f"{plane.server}/apis", headers={"Accept": DISCOVERY})

        def listed() -> bool:
            with urllib.request.urlopen(request, context=plane.admin_context()) as answer:
                return group in answer.read().decode()

        eventually(listed)
        assert Reads(plane.kubeconfig).get("namespace", "default", "") is not None
    finally:
        plane.kubectl("delete", "apiservice", f"v1.{group}")


def test_a_refusal_is_an_error_and_not_an_absence(plane: ControlPlane, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(plane.kubeconfig_of("nobody"))
    with pytest.raises(ReadError, match="403"):
        Reads(kubeconfig).get("pod", "one", "default")


def test_a_server_that_is_not_there_is_an_error(plane: ControlPlane, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(plane.kubeconfig.read_text().replace(plane.server, f"https://127.0.0.1:{free_port()}"))
    with pytest.raises(ReadError, match="refused"):
        Reads(kubeconfig).list("pods", "default")
