"""The examples of autoscaling: the real HPA controller and prometheus-adapter scale a service by the proxy's metric."""

import json
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from control_plane.autoscaling import Kubelet, adapter, autoscaler, controllers
from control_plane.harness import ROOT, Cluster, StartOperator, eventually, http
from control_plane.serving import judged, service
from control_plane.test_monitoring_chart import Prometheus
from demo.reads import Reads
from testcluster.binaries import downloaded
from testcluster.controlplane import ControlPlane

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(900)]

EXAMPLES = ROOT / "examples/autoscaling"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own: the controllers would start pods for the Deployments of other tests."""
    with ControlPlane(tmp_path_factory.mktemp("plane"), aggregates=True) as found:
        found.kubectl("apply", "-f", str(ROOT / "crds"))
        found.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        yield found


@pytest.fixture(scope="module")
def reads(plane: ControlPlane) -> Reads:
    return Reads(plane.kubeconfig)


@dataclass
class Scaled:
    """The service `desk` with an HPA, and v1 as stable version."""

    cluster: Cluster
    kubelet: Kubelet
    prometheus: Prometheus

    def reaches(self, replicas: int, pods: dict[str, int]) -> None:
        """Wait until the HPA has set `replicas`, and each version has its ready pods."""
        eventually(lambda: (self.replicas(), self.kubelet.pods()) == (replicas, pods), 240)

    def replicas(self) -> int:
        return int(self.cluster.get("dlsvc", "desk")["spec"]["replicas"])

    def has_metrics(self) -> bool:
        """Whether the HPA can read its metrics."""
        conditions = (self.cluster.get("hpa", "desk").get("status") or {}).get("conditions") or []
        return any(each["type"] == "ScalingActive" and each["status"] == "True" for each in conditions)

    def keda(self) -> float:
        """The answer to the query of the example for KEDA."""
        example = yaml.safe_load((EXAMPLES / "keda.yaml").read_text())["spec"]["triggers"][0]["metadata"]["query"]
        query = example.replace('namespace="support"', f'namespace="{self.cluster.namespace}"')
        assert query != example
        code, text = http("GET", f"{self.prometheus.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
        assert code == 200, text
        (found,) = json.loads(text)["data"]["result"]
        return float(found["value"][1])


@pytest.fixture
def scaled(cluster: Cluster, operators: StartOperator, tmp_path: Path) -> Iterator[Scaled]:
    with (
        Prometheus(tmp_path, cluster) as prometheus,
        controllers(cluster.plane, tmp_path),
        Kubelet(cluster) as kubelet,
        adapter(cluster, EXAMPLES / "prometheus-adapter.yaml", prometheus.url, tmp_path),
    ):
        operators(f"--prometheus-url={prometheus.url}").start().ready()
        judged(cluster, "v1")
        canary = {"minRequests": 20, "minSeconds": 3600, "maxErrorRateIncrease": 0.2}
        cluster.create(service(canary=canary), autoscaler(EXAMPLES / "hpa.yaml"))
        found = Scaled(cluster, kubelet, prometheus)
        found.reaches(2, {"v1": 2})
        yield found


@pytest.mark.long("autoscaling")
def test_an_hpa_follows_the_load_and_a_canary_keeps_its_ratio_until_its_promotion(scaled: Scaled) -> None:
    cluster, kubelet = scaled.cluster, scaled.kubelet
    kubelet.load = 30
    scaled.reaches(4, {"v1": 4})

    # A candidate comes on top and takes a third of the requests. The HPA still sets what the load needs without it.
    judged(cluster, "v2", against="v1")
    scaled.reaches(4, {"v1": 4, "v2": 2})
    kubelet.load = 48  # as much as these six pods can do, so that their average alone would change nothing
    scaled.reaches(6, {"v1": 6, "v2": 3})
    eventually(lambda: scaled.keda() == 48)
    kubelet.load = 30
    scaled.reaches(4, {"v1": 4, "v2": 2})

    kubelet.fewest = 99
    patch = json.dumps({"spec": {"canary": {"minSeconds": 1}}})
    cluster.kubectl("patch", "dlsvc", "desk", "--type=merge", "-p", patch)
    scaled.reaches(4, {"v2": 4})
    assert kubelet.fewest >= 4
    kubelet.load = 0
    scaled.reaches(2, {"v2": 2})


@pytest.mark.long("autoscaling")
def test_pods_whose_metrics_are_lost_are_not_taken_away(scaled: Scaled) -> None:
    scaled.kubelet.load = 60
    scaled.reaches(8, {"v1": 8})
    scaled.kubelet.silent = 4
    eventually(lambda: scaled.keda() == 32)  # a load for four pods
    time.sleep(20)  # an HPA that believed it would have removed pods: it looks every 2 s, over 8 s
    assert scaled.replicas() == 8
    scaled.kubelet.silent = 8
    eventually(lambda: not scaled.has_metrics())
    time.sleep(20)
    assert (scaled.replicas(), scaled.kubelet.pods()) == (8, {"v1": 8})


@pytest.mark.long("autoscaling")
def test_keda_takes_its_example(cluster: Cluster) -> None:
    """By the schema of KEDA's CRD. KEDA itself does not run here."""
    crd = downloaded("keda", "github.com/kedacore/keda/v2") / "config/crd/bases/keda.sh_scaledobjects.yaml"
    cluster.plane.kubectl("create", "-f", str(crd))
    cluster.plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/scaledobjects.keda.sh")
    cluster.kubectl("create", "--validate=strict", "-f", str(EXAMPLES / "keda.yaml"))
    written = cluster.get("scaledobjects", "desk")["spec"]
    assert written == yaml.safe_load((EXAMPLES / "keda.yaml").read_text())["spec"]
