"""Probes and the metrics that are read from the caches."""

from typing import Any

from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, generate_latest

from driftloop.controller.process.health import STALE, Heartbeat, ObjectMetrics, health_app
from driftloop.controller.runtime.kube.caches import Caches


def service(drift: Any, name: str = "s", revision: int = 1) -> Any:
    return {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": str(revision)},
        "status": {"phase": "Serving", "drift": drift},
    }


def page(caches: Caches) -> str:
    registry = CollectorRegistry()
    registry.register(ObjectMetrics(caches))
    return generate_latest(registry).decode()


def test_a_services_drift_is_told_and_ends_with_it() -> None:
    caches = Caches()
    state = {
        "logEvidence": "3.25",
        "threshold": "8.5",
        "alarm": True,
        "trainingDistance": {"oov": "0.5", "length": "?"},
        "shift": {"oov": "-0.25"},
        "changePoint": "2026-01-01T00:00:00Z",
        "topics": [{"terms": ["refund", "my refund"], "before": "0.01", "since": "0.2", "requests": 40}],
    }
    caches.put(service(state))
    text = page(caches)
    labels = '{inference_namespace="ns",inference_service="s"}'
    assert f"driftloop_drift_log_evidence{labels} 3.25" in text
    assert f"driftloop_drift_log_evidence_threshold{labels} 8.5" in text
    assert f"driftloop_drift_alarm{labels} 1.0" in text
    of = labels.removesuffix("}") + ',signal="oov"}'
    assert f"driftloop_drift_training_distance{of} 0.5" in text
    assert f"driftloop_drift_shift{of} -0.25" in text
    for side, share in (("before", "0.01"), ("since", "0.2")):
        topic = labels.removesuffix("}") + f',side="{side}",topic="refund, my refund"}}'
        assert f"driftloop_drift_topic_share{topic} {share}" in text
    assert f"driftloop_drift_changed_at_seconds{labels} 1.7672256e+09" in text
    assert 'signal="length"' not in text
    assert 'driftloop_objects{kind="InferenceService",phase="Serving"} 1.0' in text
    caches.remove(service({}))
    assert labels not in page(caches)


def test_unknown_evidence_is_no_number() -> None:
    caches = Caches()
    caches.put(service({"logEvidence": None, "threshold": "soon"}))
    assert "driftloop_drift_log_evidence{" not in page(caches)
    assert "driftloop_drift_log_evidence_threshold{" not in page(caches)
    caches.put(service(None, revision=2))
    assert "driftloop_drift_alarm{" not in page(caches)


def test_what_changed_is_told_during_an_alarm_alone() -> None:
    caches = Caches()
    caches.put(service({"alarm": False, "shift": {}, "changePoint": "2026-01-01T00:00:00Z"}))
    assert "driftloop_drift_shift{" not in page(caches)
    assert "driftloop_drift_changed_at_seconds{" not in page(caches)


async def test_the_probes_say_what_is_so() -> None:
    now, ready = 0.0, False
    heart = Heartbeat(clock=lambda: now)
    app = health_app(heart.alive, lambda: ready, CollectorRegistry())
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/readyz")).status == 503
        ready = True
        assert (await client.get("/readyz")).status == 200
        now = STALE + 1
        assert (await client.get("/healthz")).status == 503
        heart.beat()
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/metrics")).status == 200
