"""Probes and metrics, on a listener of their own: /healthz, /readyz, /metrics."""

import time
from collections.abc import Callable, Iterable, Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from driftloop.contract import names
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.vocabulary.kind import CUSTOM
from driftloop.controller.vocabulary.objects import field, phase
from driftloop.controller.vocabulary.plan import Obj

STALE = 60.0  # seconds without a heartbeat: the loop hangs


class Heartbeat:
    """Beaten by the main loop, read by the probe in another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()

    def beat(self) -> None:
        """The main loop runs."""
        self._at = self._clock()

    def alive(self) -> bool:
        """Whether it ran lately."""
        return self._clock() - self._at < STALE


def health_app(alive: Callable[[], bool], ready: Callable[[], bool], registry: CollectorRegistry) -> web.Application:
    """Ready is every replica whose caches are filled, leading or not: each of them records alerts."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if alive() else web.Response(status=503, text="the main loop hangs")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if ready() else web.Response(status=503, text="the caches are not filled yet")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


class ObjectMetrics(Collector):
    """Computed from the caches at each scrape, so that the series of a deleted object end with it."""

    def __init__(self, caches: Caches) -> None:
        self._caches = caches

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: the registry need not ask the caches when it is filled."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Objects by phase, and each service's drift."""
        yield self._phases()
        yield from drift(self._caches.list("InferenceService"))

    def _phases(self) -> Metric:
        found = GaugeMetricFamily("driftloop_objects", "Objects by kind and phase.", labels=["kind", "phase"])
        counts: dict[tuple[str, str], int] = {}
        for kind in CUSTOM:
            for obj in self._caches.list(kind):
                place = kind, phase(obj) or "None"
                counts[place] = counts.get(place, 0) + 1
        for place, count in sorted(counts.items()):
            found.add_metric(list(place), count)
        return found


def drift(services: Iterable[Obj]) -> Iterator[Metric]:
    """The detector's state of each service that has one, as the alert rule reads it."""
    labels = ["inference_namespace", "inference_service"]
    evidence = GaugeMetricFamily(
        names.Metric.DRIFT_LOG_EVIDENCE, "Evidence of drift, natural logarithm.", labels=labels
    )
    threshold = GaugeMetricFamily(names.Metric.DRIFT_THRESHOLD, "An alarm is raised above this.", labels=labels)
    alarm = GaugeMetricFamily(names.Metric.DRIFT_ALARM, "1 while the evidence is above the threshold.", labels=labels)
    distance = GaugeMetricFamily(
        names.Metric.DRIFT_TRAINING_DISTANCE,
        "From the training data to the requests that count as normal, in standard deviations.",
        labels=[*labels, "signal"],
    )
    for service in services:
        state = field(service, "status", "drift") or {}
        place = [service["metadata"]["namespace"], service["metadata"]["name"]]
        for family, value in ((evidence, state.get("logEvidence")), (threshold, state.get("threshold"))):
            if (number := _number(value)) is not None:
                family.add_metric(place, number)
        for signal, value in (state.get("trainingDistance") or {}).items():
            if (number := _number(value)) is not None:
                distance.add_metric([*place, signal], number)
        if state:
            alarm.add_metric(place, float(bool(state.get("alarm"))))
    yield from (evidence, threshold, distance, alarm)


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None
