"""The demo's configuration of Prometheus and the alert rule, with a real Prometheus and a real API server.

The pods don't run; the test listens on the addresses that it writes into their status.
"""

import json
import random
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from control_plane.harness import Cluster, eventually, http
from control_plane.monitoring import Process
from testcluster.binaries import binary

pytestmark = pytest.mark.control_plane

CHART = Path(__file__).parents[2] / "charts/monitoring-demo"
Labels = dict[str, str]


def rendered(namespace: str) -> dict[str, Any]:
    """The two files in the chart's ConfigMap, for an operator in `namespace`."""
    values = (f"operator.namespace={namespace}", "operator.token=x", "scrapeInterval=1s")
    command = [str(binary("helm")), "template", "monitoring", str(CHART), *(f"--set={value}" for value in values)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (found,) = [
        each["data"]
        for each in yaml.safe_load_all(text)
        if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "prometheus"
    ]
    return {name: yaml.safe_load(content) for name, content in found.items()}


class Prometheus(Process):
    """Runs the chart's configuration, with changes only for the address of the API server and the rule file.

    `jobs`: further scrape configurations, as other teams add them to a shared Prometheus.
    """

    name = "prometheus"

    def __init__(self, folder: Path, cluster: Cluster, *jobs: Any) -> None:
        super().__init__(folder)
        files = rendered(cluster.namespace)
        config = files["prometheus.yaml"] | {"rule_files": [str(self.config("alerts.yaml", files["alerts.yaml"]))]}
        del config["alerting"]
        for discovery in (each for job in config["scrape_configs"] for each in job["kubernetes_sd_configs"]):
            discovery["kubeconfig_file"] = str(cluster.plane.kubeconfig)
        config["scrape_configs"] += jobs
        self._config = self.config("prometheus.yaml", config)

    def command(self) -> list[str]:
        return [
            str(binary("prometheus")),
            f"--config.file={self._config}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--storage.tsdb.path={self.folder}/data",
        ]

    def descriptions(self) -> list[str]:
        """The texts of the alerts that fire."""
        code, text = http("GET", f"{self.url}/api/v1/alerts")
        assert code == 200, text
        return [each["annotations"]["description"] for each in json.loads(text)["data"]["alerts"]]

    def series(self, promql: str) -> list[Labels]:
        """The label sets in the result of an instant query."""
        code, text = http("GET", f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': promql})}")
        assert code == 200, text
        return [each["metric"] for each in json.loads(text)["data"]["result"]]


@dataclass
class FakePod:
    """A pod with the status Running, and a server for its metrics, which the test sets."""

    name: str
    labels: Labels
    port: int
    port_name: str
    address: str = field(default_factory=lambda: f"127.{random.randint(1, 250)}.{random.randint(0, 250)}.7")
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def create(self, cluster: Cluster) -> None:
        """Create the pod and set its status to Running."""
        ports = [{"containerPort": 8081, "name": "other"}, {"containerPort": self.port, "name": self.port_name}]
        spec = {"containers": [{"name": "main", "image": "none", "ports": ports}]}
        metadata = {"name": self.name, "labels": self.labels}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(body))
        status = {"phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}]}
        cluster.kubectl(
            "patch", "pod", self.name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
        )

    def start(self, cluster: Cluster) -> Any:
        """Create the pod and start the server. Returns the server."""
        self.create(cluster)
        return start_http_server(self.port, self.address, self.registry)[0]


@dataclass
class Watched:
    """A Prometheus, an operator and a serving pod."""

    prometheus: Prometheus
    operator: FakePod
    server: FakePod
    namespace: str


def operator_pod() -> FakePod:
    labels = {"app.kubernetes.io/instance": "driftloop", "app.kubernetes.io/component": "operator"}
    return FakePod("operator-0", labels, 8080, "http")


@pytest.fixture
def watched(cluster: Cluster, tmp_path: Path) -> Iterator[Watched]:
    operator = operator_pod()
    server = FakePod("server-0", {"driftloop.dev/stage": "serve"}, 9090, "metrics")
    listeners = [operator.start(cluster), server.start(cluster)]
    with Prometheus(tmp_path, cluster) as prometheus:
        yield Watched(prometheus, operator, server, cluster.namespace)
    for listener in listeners:
        listener.shutdown()
        listener.server_close()


def evidence(pod: FakePod, values: dict[str, float]) -> None:
    """The detector's two gauges in the operator's format, with a threshold of 5."""
    names = ("inference_namespace", "inference_service")
    log = Gauge("driftloop_drift_log_evidence", "Evidence.", names, registry=pod.registry)
    threshold = Gauge("driftloop_drift_log_evidence_threshold", "Threshold.", names, registry=pod.registry)
    for service, value in values.items():
        log.labels("team", service).set(value)
        threshold.labels("team", service).set(5)


def test_the_alert_fires_for_the_drifted_service_alone_and_names_it(watched: Watched) -> None:
    evidence(watched.operator, {"drifted": 6, "steady": 1, "unknown": float("nan")})
    assert eventually(lambda: watched.prometheus.series('ALERTS{alertstate="firing"}')) == [
        {
            "__name__": "ALERTS",
            "alertname": "DriftloopModelDrift",
            "alertstate": "firing",
            "inference_namespace": "team",
            "inference_service": "drifted",
        }
    ]


def test_the_alert_says_what_changed_by_how_much_and_since_when(watched: Watched) -> None:
    labels = ("inference_namespace", "inference_service")
    shift = Gauge("driftloop_drift_shift", "Shift.", (*labels, "signal"), registry=watched.operator.registry)
    since = Gauge("driftloop_drift_changed_at_seconds", "Since.", labels, registry=watched.operator.registry)
    shift.labels("team", "drifted", "surprisal").set(0.817)
    shift.labels("team", "other", "length").set(-2)
    topic = Gauge(
        "driftloop_drift_topic_share", "Topic.", (*labels, "topic", "side"), registry=watched.operator.registry
    )
    since.labels("team", "drifted").set(1_767_225_600)
    for side, share in (("before", 0.01), ("since", 0.2)):
        topic.labels("team", "drifted", "refund, my refund", side).set(share)
    evidence(watched.operator, {"drifted": 6})
    told = (
        'since 2026-01-01T00:00:00Z, surprisal +0.82 standard deviations, more requests with "refund, my refund" (now '
        "20%) (log evidence 6.0). Driftloop starts"
    )
    (text,) = eventually(lambda: [each for each in watched.prometheus.descriptions() if "refund" in each])
    assert told in text
    assert "length" not in text


def test_a_pods_metrics_carry_its_real_namespace_and_no_verdict_of_the_detector(watched: Watched) -> None:
    requests = Counter("driftloop_requests", "Requests.", ["namespace", "pod"], registry=watched.server.registry)
    requests.labels("somebody-elses", "operator-0").inc()
    evidence(watched.server, {"victim": 100})
    (found,) = eventually(lambda: watched.prometheus.series("driftloop_requests_total"))
    assert (found["namespace"], found["pod"]) == (watched.namespace, "server-0")
    assert found["exported_namespace"] == "somebody-elses"
    assert watched.prometheus.series("driftloop_drift_log_evidence") == []
    assert watched.prometheus.series("ALERTS") == []


def test_evidence_that_is_scraped_in_another_namespace_makes_the_alert_fire_for_nobody(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Whoever may add a monitor to a shared Prometheus exported a victim's evidence, and its training began."""
    theirs, ours = FakePod("theirs", {}, 9090, "metrics"), operator_pod()
    listeners = [start_http_server(theirs.port, theirs.address, theirs.registry)[0], ours.start(cluster)]
    targets = {"targets": [f"{theirs.address}:{theirs.port}"], "labels": {"namespace": "theirs"}}
    evidence(theirs, {"victim": 100})
    with Prometheus(tmp_path, cluster, {"job_name": "theirs", "static_configs": [targets]}) as prometheus:
        eventually(lambda: prometheus.series('driftloop_drift_log_evidence{namespace="theirs"}'))
        evidence(ours, {"drifted": 6})  # so that the rule is evaluated once more
        firing = eventually(lambda: prometheus.series("ALERTS"))
    assert {each["inference_service"] for each in firing} == {"drifted"}
    for listener in listeners:
        listener.shutdown()
        listener.server_close()


def test_every_pod_with_metrics_is_one_target(watched: Watched, cluster: Cluster) -> None:
    worker = {"driftloop.dev/stage": "train", "batch.kubernetes.io/job-completion-index": "1"}
    for pod in (FakePod("train-1", worker, 9090, "metrics"), FakePod("foreign", {}, 9090, "metrics")):
        pod.create(cluster)
    ours = f'{{namespace="{watched.namespace}"}}'
    eventually(lambda: len(watched.prometheus.series(f"up{ours} == 1")) == 2)
    assert sorted(each["pod"] for each in watched.prometheus.series(f"up{ours}")) == ["operator-0", "server-0"]
