"""Probes and metrics: /healthz, /readyz and /metrics on a separate port."""

import time
from collections.abc import Callable, Iterable, Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from driftloop.contract import names
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.vocabulary.conditions import parse_timestamp
from driftloop.controller.vocabulary.kind import CUSTOM
from driftloop.controller.vocabulary.objects import field, phase
from driftloop.controller.vocabulary.plan import Obj

STALE = 60.0  # seconds without a heartbeat after which the main loop counts as blocked


class Heartbeat:
    """The main loop calls `beat`, and the probe in another thread calls `alive`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()

    def beat(self) -> None:
        """Record that the main loop runs."""
        self._at = self._clock()

    def alive(self) -> bool:
        """Whether the main loop ran recently."""
        return self._clock() - self._at < STALE


def health_app(alive: Callable[[], bool], ready: Callable[[], bool], registry: CollectorRegistry) -> web.Application:
    """A replica is ready when its caches are filled, leader or not: every replica records alerts."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if alive() else web.Response(status=503, text="the main loop is blocked")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if ready() else web.Response(status=503, text="the caches are not filled yet")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


class ObjectMetrics(Collector):
    """Metrics computed from the caches at each scrape, so that a deleted object has no series any more."""

    def __init__(self, caches: Caches) -> None:
        self._caches = caches

    def describe(self) -> Iterable[Metric]:
        """Returns nothing, so that the registry does not call `collect` at registration."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Number of objects by phase, and the drift metrics of each service."""
        yield self._phases()
        yield from drift(self._caches.list("InferenceService"))

    def _phases(self) -> Metric:
        family = GaugeMetricFamily("driftloop_objects", "Objects by kind and phase.", labels=["kind", "phase"])
        counts: dict[tuple[str, str], int] = {}
        for kind in CUSTOM:
            for obj in self._caches.list(kind):
                label_values = kind, phase(obj) or "None"
                counts[label_values] = counts.get(label_values, 0) + 1
        for label_values, count in sorted(counts.items()):
            family.add_metric(list(label_values), count)
        return family


def drift(services: Iterable[Obj]) -> Iterator[Metric]:
    """State of the drift detector of each service. The alert rule reads these metrics."""
    labels = ["inference_namespace", "inference_service"]
    evidence = GaugeMetricFamily(
        names.Metric.DRIFT_LOG_EVIDENCE, "Evidence of drift, as a natural logarithm.", labels=labels
    )
    threshold = GaugeMetricFamily(names.Metric.DRIFT_THRESHOLD, "The alarm rises above this value.", labels=labels)
    alarm = GaugeMetricFamily(names.Metric.DRIFT_ALARM, "1 while the evidence is above the threshold.", labels=labels)
    distance = GaugeMetricFamily(
        names.Metric.DRIFT_TRAINING_DISTANCE,
        "Distance of the baseline from the training data, in standard deviations.",
        labels=[*labels, "signal"],
    )
    shift = GaugeMetricFamily(
        names.Metric.DRIFT_SHIFT,
        "During an alarm, how far a signal has moved from the baseline, in standard deviations.",
        labels=[*labels, "signal"],
    )
    topics = GaugeMetricFamily(
        names.Metric.DRIFT_TOPIC,
        "During an alarm, share of the requests about a topic that grew, before and since the change.",
        labels=[*labels, "topic", "side"],
    )
    since = GaugeMetricFamily(
        names.Metric.DRIFT_CHANGED_AT, "During an alarm, Unix time of the start of the change.", labels=labels
    )
    for service in services:
        state = field(service, "status", "drift") or {}
        label_values = [service["metadata"]["namespace"], service["metadata"]["name"]]
        for family, value in ((evidence, state.get("logEvidence")), (threshold, state.get("threshold"))):
            if (number := _number(value)) is not None:
                family.add_metric(label_values, number)
        for signals, name in ((distance, "trainingDistance"), (shift, "shift")):
            for signal, value in (state.get(name) or {}).items():
                if (number := _number(value)) is not None:
                    signals.add_metric([*label_values, signal], number)
        for topic in state.get("topics") or ():
            for side in ("before", "since"):
                if (number := _number(topic.get(side))) is not None:
                    topics.add_metric([*label_values, ", ".join(topic.get("terms") or ()), side], number)
        if state:
            alarm.add_metric(label_values, float(bool(state.get("alarm"))))
        if state.get("alarm") and state.get("changePoint"):
            since.add_metric(label_values, parse_timestamp(state["changePoint"]).timestamp())
    yield from (evidence, threshold, distance, alarm, shift, topics, since)


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None
