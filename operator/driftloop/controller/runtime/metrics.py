"""The operator's own Prometheus metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

RECONCILES = Counter("driftloop_reconcile", "Reconciles by kind and result.", ["kind", "result"], registry=REGISTRY)
RECONCILE_SECONDS = Histogram(
    "driftloop_reconcile_duration_seconds",
    "Duration of a reconcile.",
    ["kind"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
ERRORS = Counter("driftloop_errors", "Failures by place.", ["where"], registry=REGISTRY)
API_REQUESTS = Counter(
    "driftloop_api_requests", "Requests to the API server, without watches.", ["verb", "code"], registry=REGISTRY
)
QUEUE_DEPTH = Gauge("driftloop_queue_depth", "Objects that wait to be reconciled.", registry=REGISTRY)
LEADER = Gauge("driftloop_leader", "1 on the replica that reconciles.", registry=REGISTRY)
ALERTS = Counter("driftloop_alerts", "Alerts by source and result.", ["source", "result"], registry=REGISTRY)
ALERT_POLLS = Counter("driftloop_alert_polls", "Polls of Alertmanagers and Prometheus for alerts.", registry=REGISTRY)
