"""Sets up everything that the loop needs: cluster, images, Prometheus and Alertmanager, chart, storage and data."""

import csv
import io
import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.corpus import Row
from demo.kube import Kube, KubectlError, restricted_pod
from demo.pools import Pools, is_held_out
from demo.reads import Obj
from demo.timeline import Timeline
from testcluster import providers  # the tool of `make cluster`
from testcluster.binaries import binary
from testcluster.console import Error
from testcluster.paths import KUBECONFIG

ROOT = Path(__file__).parents[2]
SYSTEM = "driftloop-system"
MONITORING = "driftloop-monitoring"
IMAGES = ["operator", "trainer", "server", "monitoring"]
BUILT_IN = "built-in"
ENGINES = (BUILT_IN, "vllm")
CLAIM = "driftloop"
DATA = "support-desk/data"  # folder in the claim
PROMETHEUS = f"http://prometheus.{MONITORING}.svc:9090"
ALERTMANAGER = f"http://alertmanager.{MONITORING}.svc:9093"


@dataclass(frozen=True)
class Installed:
    """A cluster with Driftloop in it."""

    kube: Kube
    helm: list[str]
    images: dict[str, str]
    provider: providers.Provider


def install(timeline: Timeline, cluster: str, engine: str = BUILT_IN) -> Installed:
    """Set up cluster, images, chart and monitoring. Existing parts are kept and updated. `engine`: one of ENGINES."""
    provider = providers.choose(cluster)
    provider.up()
    providers.remember(provider)
    timeline.event("cluster up")
    images = _images(provider, [*IMAGES, "vllm"] if engine == "vllm" else IMAGES)
    timeline.event("images built and loaded")
    helm = [str(binary("helm")), "--kubeconfig", str(KUBECONFIG)]
    installed = Installed(Kube(binary("kubectl"), KUBECONFIG), helm, images, provider)
    _chart(installed)
    _monitoring(installed)
    timeline.event("operator, Prometheus and Alertmanager are running")
    return installed


def _images(provider: providers.Provider, names: list[str]) -> dict[str, str]:
    """Image references by name: built here, or for the user's own cluster from DRIFTLOOP_IMAGES (JSON)."""
    if given := os.environ.get("DRIFTLOOP_IMAGES"):
        references: dict[str, str] = json.loads(given)
        if missing := [name for name in names if name not in references and name != "monitoring"]:
            raise Error(f"DRIFTLOOP_IMAGES has no image {', '.join(missing)}: add it")
        return references
    return provider.provide_images(names)


def _helm(installed: Installed, release: str, chart: str, namespace: str, values: Obj) -> None:
    command = [
        *installed.helm,
        "upgrade",
        "--install",
        release,
        str(ROOT / chart),
        "-n",
        namespace,
        "--create-namespace",
    ]
    done = subprocess.run(
        [*command, "--values", "-"], input=json.dumps(values), capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode != 0:
        raise RuntimeError(f"helm upgrade {release}: {done.stderr.strip()}")


def _chart(installed: Installed) -> None:
    images = {name: _image(reference) for name, reference in installed.images.items() if name != "monitoring"}
    values = {
        "images": images | {"pullPolicy": "IfNotPresent"},
        "prometheusUrl": PROMETHEUS,
        "alertmanagerUrls": [ALERTMANAGER],
    }
    _helm(installed, "driftloop", "charts/driftloop", SYSTEM, values)
    installed.kube.run("rollout", "status", "-n", SYSTEM, "deployment/driftloop", "--timeout=180s", timeout=190)


def _monitoring(installed: Installed) -> None:
    """Install Prometheus and Alertmanager: on a test cluster from an image with Debian's builds, else from upstream."""
    names = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager"}
    image = installed.images.get("monitoring")
    values = {name: {"image": image, "command": [f"/usr/bin/{program}"]} for name, program in names.items()}
    _helm(installed, "monitoring", "charts/monitoring-demo", MONITORING, values if image else {})
    for name in names:
        installed.kube.run("rollout", "status", "-n", MONITORING, f"deployment/{name}", "--timeout=180s", timeout=190)


def _image(reference: str) -> dict[str, str]:
    repository, _, tag = reference.rpartition(":")
    return {"repository": repository, "tag": tag}


def namespace_with_claim(installed: Installed, name: str) -> None:
    """Create an empty namespace under the restricted standard, with a shared claim. Deletes an existing one first."""
    kube = installed.kube
    if kube.get("namespace", name, "default"):
        kube.run("delete", "inferenceservices,finetunejobs", "--all", "-n", name, "--wait=false")
        kube.run("delete", "namespace", name, "--timeout=180s", timeout=200)
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )
    volume = _volume(installed, name)
    spec: Obj = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "10Gi"}},
        **({"storageClassName": "", "volumeName": volume} if volume else {}),
    }
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM, "namespace": name},
            "spec": spec,
        }
    )


def _volume(installed: Installed, namespace: str) -> str | None:
    """A fresh volume of the test cluster; on a cluster of the user's own its default storage class makes one."""
    if installed.provider is providers.PROVIDERS["current"]:
        return None
    name = f"demo-{namespace}-{time.time_ns():x}"
    installed.provider.add_volume(name)
    return name


def put_data(installed: Installed, namespace: str, pools: Pools) -> None:
    """Write the training pool into the claim: corpus.csv (texts) and requests.csv (texts with their category).

    The base model's corpus has no rows that the gates of later versions will ask.
    """
    kube = installed.kube
    kube.apply(_writer(namespace, installed.images["operator"]))
    kube.run("wait", "-n", namespace, "pod/writer", "--for=condition=Ready", "--timeout=120s", timeout=130)
    put_rows(installed, namespace, "corpus.csv", [row for row in pools.training if not is_held_out(row)])
    put_rows(installed, namespace, "requests.csv", pools.training)


def put_rows(installed: Installed, namespace: str, name: str, rows: list[Row]) -> None:
    """Write `rows` as a CSV file with the columns text and category into the claim's data folder."""
    write_file(installed, namespace, f"{DATA}/{name}", _csv([("text", "category"), *rows]))


def write_file(installed: Installed, namespace: str, path: str, text: str) -> None:
    """Write a file into the claim, with the writer pod."""
    command = ("exec", "-i", "-n", namespace, "writer", "--", "sh", "-c")
    target = f"/volumes/{CLAIM}/{path}"
    installed.kube.run(*command, f"mkdir -p $(dirname {target}) && cat > {target}", stdin=text)


def read_file(installed: Installed, namespace: str, path: str) -> str:
    """Read a file from the claim, with the writer pod."""
    try:
        return installed.kube.run("exec", "-n", namespace, "writer", "--", "cat", f"/volumes/{CLAIM}/{path}")
    except KubectlError as error:
        raise RuntimeError(f"{path}: {error}") from error


def _csv(lines: Sequence[tuple[str, str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue()


def _writer(namespace: str, image: str) -> Obj:
    pod = restricted_pod("writer", namespace, image, ["sleep", "infinity"])
    pod["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}}]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": f"/volumes/{CLAIM}"}]
    return pod
