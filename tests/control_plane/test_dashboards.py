"""Every query of the chart's dashboards, asked of a real Prometheus that scrapes what our programs export."""

import json
import re
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from control_plane.harness import eventually, http
from control_plane.monitoring import Process
from demo.corpus import SHOP, rows
from driftloop.contract.names import Metric
from driftloop.contract.task import ServeTask
from driftloop.controller.process import health
from driftloop.controller.runtime import metrics as operator
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.podlib.novelty import profile_of
from driftloop_server.door.metrics import DoorMetrics
from driftloop_server.engine.metrics import EngineMetrics
from driftloop_server.proxy.drift import DriftCounters, Reference
from driftloop_server.proxy.metrics import Outcome, ProxyMetrics
from driftloop_trainer.train.cluster.board import Board
from driftloop_trainer.train.progress import Progress
from testcluster.binaries import binary
from testcluster.controlplane import free_port

pytestmark = pytest.mark.control_plane

FOLDER = Path(__file__).parents[2] / "charts/driftloop/files/dashboards"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
TEXTS = [row.text for row in rows(SHOP, 40, seed=1)]  # enough for every signal
CHOSEN = {"namespace": "team", "service": "desk", "pod": "train-0", "__rate_interval": "1m", "__range": "1h"}


def chosen(query: str) -> str:
    """A query of a dashboard with the values of its variables, as Grafana asks it."""
    for name, value in CHOSEN.items():
        query = query.replace(f"${name}", value)
    assert "$" not in query, query
    return query


def queries(dashboard: str) -> list[str]:
    return [target["expr"] for panel in DASHBOARDS[dashboard]["panels"] for target in panel.get("targets", [])]


def serving() -> ProxyMetrics:
    task = ServeTask(
        namespace="team",
        service="desk",
        service_uid="uid",
        family="desk",
        version="desk-1",
        revision="r1",
        artefact_uri="pvc://models/desk",
        artefact_digest="sha256:" + "0" * 64,
    )
    return ProxyMetrics(task)


class Exporters:
    """The metrics of a serving pod, a door, a training and the operator, by the programs' own code, each on a port."""

    def __init__(self) -> None:
        self.proxy, self.engine, self.door = serving(), EngineMetrics("desk"), DoorMetrics("desk")
        self.drift = DriftCounters(Reference.of(profile_of(TEXTS)), self.proxy)
        self.proxy.shadow_of("r2")
        board = free_port()
        self.board = Board(board, total=90, born=time.time() - 20)
        caches = Caches()
        drift = {"logEvidence": "9", "threshold": "5", "alarm": True, "trainingDistance": {"oov": "0.5"}}
        drift |= {"shift": {"oov": "0.8"}, "changePoint": "2026-01-01T00:00:00Z"}
        drift |= {"topics": [{"terms": ["refund"], "before": "0.01", "since": "0.2", "requests": 40}]}
        for kind, status in (
            ("FineTuneJob", {"phase": "Training"}),
            ("ModelVersion", {"phase": "Approved"}),
            ("InferenceService", {"phase": "Serving", "drift": drift}),
        ):
            metadata = {"name": "desk", "namespace": "team", "uid": kind, "resourceVersion": "1"}
            api = "driftloop.dev/v1alpha1"
            caches.put({"apiVersion": api, "kind": kind, "metadata": metadata, "status": status})
        objects = CollectorRegistry()
        objects.register(health.ObjectMetrics(caches))
        self.listeners, self.targets = [], {"train-0": [board], "serve-0": [], "door-0": [], "operator-0": []}
        for pod, registry in (
            ("serve-0", self.proxy.registry),
            ("serve-0", self.engine.registry),
            ("door-0", self.door.registry),
            ("operator-0", operator.REGISTRY),
            ("operator-0", objects),
        ):
            port = free_port()
            self.listeners.append(start_http_server(port, "127.0.0.1", registry)[0])
            self.targets[pod].append(port)

    def work(self) -> None:
        """What a second of each of them may count."""
        self.proxy.in_progress.set(3)
        self.proxy.request("/v1/chat/completions", 200, 0.2, Outcome(20, 0.05, "complete"))
        self.proxy.request("/v1/chat/completions", 503, 0.2)
        self.proxy.client("shop", 200, 20)
        self.proxy.feedback("r1", "desk-1", "positive")
        self.proxy.eligible("r1", "desk-1", "train")
        self.proxy.shadow_pair("r2", "failed", "neither")
        self.proxy.shadow_dropped("r2", "busy")
        self.door.held.set(2)
        self.door.wait.observe(20)
        self.door.request(200)
        self.drift.count(TEXTS[0])
        self.engine.generation_tokens.inc(20)
        self.board.show_nodes(2)
        self.board.show(
            Progress(
                *(30, 90, 0.25, 1234.0, 65.0),
                validation={"last": 1.5},
                reward={"margin": 0.5},
                peak_memory={"resident": 1 << 30},
                checkpoint_step=20,
                checkpoint_time=1e9,
                mfu=0.4,
            )
        )
        operator.RECONCILES.labels("FineTuneJob", "done").inc()
        operator.RECONCILE_SECONDS.labels("FineTuneJob").observe(0.1)
        operator.ERRORS.labels("watch").inc()
        operator.API_REQUESTS.labels("GET", "200").inc()
        operator.ALERTS.labels("webhook", "recorded").inc()


class Prometheus(Process):
    """Scrapes the exporters every second."""

    name = "prometheus"

    def __init__(self, folder: Path, exporters: Exporters) -> None:
        super().__init__(folder)
        static = [
            {"targets": [f"127.0.0.1:{port}" for port in ports], "labels": {"namespace": "team", "pod": pod}}
            for pod, ports in exporters.targets.items()
        ]
        jobs = [{"job_name": "pods", "scrape_interval": "1s", "scrape_timeout": "1s", "static_configs": static}]
        self._config = self.config("prometheus.yaml", {"scrape_configs": jobs})

    def command(self) -> list[str]:
        return [
            str(binary("prometheus")),
            f"--config.file={self._config}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--storage.tsdb.path={self.folder}/data",
        ]

    def get(self, path: str, **parameters: str) -> Any:
        code, text = http("GET", f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        assert code == 200, text
        return json.loads(text)["data"]

    def numbers(self, query: str) -> list[str]:
        """The values of a query's result that are numbers."""
        values = [series["value"][1] for series in self.get("query", query=query)["result"]]
        return [value for value in values if value not in ("NaN", "+Inf", "-Inf")]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, Exporters]]:
    exporters = Exporters()
    with Prometheus(tmp_path_factory.mktemp("dashboards"), exporters) as prometheus:
        yield prometheus, exporters
    for listener in exporters.listeners:
        listener.shutdown()
        listener.server_close()


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_every_query_of_a_dashboard_has_numbers_of_what_our_programs_export(
    watched: tuple[Prometheus, Exporters], dashboard: str
) -> None:
    prometheus, exporters = watched

    def answered() -> bool:
        exporters.work()
        empty = [query for query in queries(dashboard) if not prometheus.numbers(chosen(query))]
        assert not empty, empty
        return True

    assert queries(dashboard)
    eventually(answered, 60, every=1)


@pytest.mark.parametrize("dashboard", ["service", "training"])
def test_the_choices_of_a_dashboard_are_the_namespaces_services_and_pods_with_metrics(
    watched: tuple[Prometheus, Exporters], dashboard: str
) -> None:
    prometheus, exporters = watched
    for variable in DASHBOARDS[dashboard]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert asked is not None
        series, label = asked[1], asked[2]

        def values(series: str = series, label: str = label) -> Any:
            exporters.work()
            return prometheus.get(f"label/{label}/values", **{"match[]": chosen(series)})

        assert eventually(values, 60, every=1) == [CHOSEN[variable["name"]]]


def test_every_metric_of_ours_is_in_a_dashboard_or_for_the_operator_alone() -> None:
    shown = " ".join(query for dashboard in DASHBOARDS for query in queries(dashboard))
    # The detector and the canary read these, and the panels show what comes of it.
    for_the_operator = {Metric.DRIFT_REFERENCE, Metric.DRIFT_REFERENCE_ROWS, Metric.RATED, Metric.TRAIN_BEST_STEP}
    named = {value for name, value in vars(Metric).items() if name.isupper()}
    assert {metric for metric in named if not re.search(rf"\b{metric}(_bucket)?\b", shown)} == for_the_operator


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_no_two_panels_share_a_number_or_a_place(dashboard: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
