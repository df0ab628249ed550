"""The operator with the rights in the chart and a token like in a pod: nothing is refused, in either scope."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from control_plane.gateway import install_gateway_api
from control_plane.harness import ROOT, Cluster, StartOperator, eventually
from control_plane.objects import finetunejob, inferenceservice, modelversion
from control_plane.serving import service
from testcluster.binaries import binary

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]


def kubeconfig(cluster: Cluster, folder: Path, *flags: str) -> Path:
    """Apply the chart's account and rights. Returns a kubeconfig with a token of that account."""
    shown = [f"--show-only=templates/{name}.yaml" for name in ("rbac", "serviceaccount")]
    chart = subprocess.run(
        [
            binary("helm"),
            "template",
            cluster.namespace,
            ROOT / "charts/driftloop",
            "-n",
            cluster.namespace,
            *shown,
            *flags,
        ],
        env=os.environ | {"HELM_CACHE_HOME": str(folder / "helm")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    cluster.kubectl("apply", "-f", "-", stdin=chart)
    [account] = [each["metadata"]["name"] for each in yaml.safe_load_all(chart) if each["kind"] == "ServiceAccount"]
    config = yaml.safe_load(cluster.plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": cluster.kubectl("create", "token", account).strip()}
    path = folder / "operator.kubeconfig"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("scope", ["cluster", "namespace"])
def test_the_charts_rights_suffice(cluster: Cluster, operators: StartOperator, tmp_path: Path, scope: str) -> None:
    watch = f"{{{cluster.namespace}}}" if scope == "namespace" else "null"
    found = kubeconfig(cluster, tmp_path, f"--set=watchNamespaces={watch}")
    operator = operators(f"--kubeconfig={found}")
    if scope == "cluster":
        operator.add("--namespaces=")
    operator.start().ready()
    install_gateway_api(cluster.plane)
    cluster.create(service(gateway={"name": "public"}))
    eventually(lambda: cluster.get("httproutes", "desk"))
    # The Deployment of its door comes and goes.
    cluster.kubectl("patch", "dlsvc", "desk", "--type=merge", "-p", json.dumps({"spec": {"scaleToZero": {}}}))
    eventually(lambda: cluster.list("deployments"))
    cluster.kubectl("patch", "dlsvc", "desk", "--type=merge", "-p", json.dumps({"spec": {"scaleToZero": None}}))
    eventually(lambda: not cluster.list("deployments"))
    cluster.kubectl("patch", "dlsvc", "desk", "--type=merge", "-p", json.dumps({"spec": {"gateway": None}}))
    eventually(lambda: cluster.get("httproutes", "desk") is None)
    cluster.create(finetunejob("one"), inferenceservice("support"), modelversion("imported"))
    cluster.create(claim("data"), claim("models"))
    eventually(lambda: cluster.list("jobs"))
    eventually(lambda: cluster.condition("mver", "imported", "Ready"))
    eventually(lambda: cluster.condition("dlsvc", "support", "Ready"))
    eventually(lambda: cluster.list("events.events.k8s.io"))
    refused = [line for line in operator.probe("/metrics")[1].splitlines() if 'code="403"' in line]
    assert refused == []
    assert "forbidden" not in operator.log.read_text()


def claim(name: str) -> object:
    """A ReadWriteMany claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
