"""A real Prometheus with counters like those of the proxies of all pods."""

import subprocess
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from driftloop.contract.names import Metric
from testcluster.binaries import binary
from testcluster.controlplane import free_port


class Traffic:
    """A real Prometheus, and counters like those of all pods' proxies."""

    def __init__(self, folder: Path) -> None:
        registry, labels = CollectorRegistry(), ["namespace", "inference_service", "revision", "model_version", "route"]
        self._requests = Counter(Metric.REQUESTS.removesuffix("_total"), "", [*labels, "code"], registry=registry)
        self._latency = Histogram(Metric.LATENCY, "", labels, registry=registry)
        shadowed = ["namespace", "inference_service", "revision", "model_version", "candidate", "measure", "outcome"]
        self._pairs = Counter(Metric.SHADOW_PAIRS.removesuffix("_total"), "", shadowed, registry=registry)
        pods, self.port = free_port(), free_port()
        self._server, _ = start_http_server(pods, "127.0.0.1", registry)
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [
                {
                    "job_name": "pods",
                    "honor_labels": True,
                    "static_configs": [{"targets": [f"127.0.0.1:{pods}"]}],
                }
            ],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary("prometheus"),
                    f"--config.file={folder}/prometheus.yaml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )

    @property
    def flag(self) -> str:
        return f"--prometheus-url=http://127.0.0.1:{self.port}"

    def serve(self, deployment: Any, requests: int, errors: float = 0, seconds: float = 0.1) -> None:
        """Add requests to the counters of a revision."""
        meta = deployment["metadata"]
        labels = (
            meta["namespace"],
            meta["labels"]["driftloop.dev/service"],
            meta["labels"]["driftloop.dev/revision"],
            meta["labels"]["driftloop.dev/version"],
            "/v1/completions",
        )
        self._requests.labels(*labels, "200").inc(requests - errors)
        self._requests.labels(*labels, "500").inc(errors)
        for _ in range(requests):
            self._latency.labels(*labels).observe(seconds)

    def shadow(self, stable: Any, candidate: Any, measure: str, outcome: str, pairs: int) -> None:
        """Add pairs to the counters of stable's pods."""
        meta = stable["metadata"]
        labels = meta["labels"]
        self._pairs.labels(
            meta["namespace"],
            labels["driftloop.dev/service"],
            labels["driftloop.dev/revision"],
            labels["driftloop.dev/version"],
            candidate["metadata"]["labels"]["driftloop.dev/revision"],
            measure,
            outcome,
        ).inc(pairs)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._server.shutdown()
