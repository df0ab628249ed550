"""The door's metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from driftloop.contract.names import Metric

# By default each counter has a second series, `_created`, which nothing here needs:
# https://github.com/prometheus/client_python/issues/672
disable_created_metrics()  # type: ignore[no-untyped-call]

_CODES = ("200", "499", "502", "503", "504")  # series start at 0, as those of the proxy
_LABELS = ("inference_service",)
_BUCKETS = (0.1, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 3600.0)


class DoorMetrics:
    """Counters with the names in `contract/names.py`."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()
        held = Gauge(Metric.DOOR_HELD, "Requests that wait for a serving pod.", _LABELS, registry=self.registry)
        requests = Counter(
            Metric.DOOR_REQUESTS, "Requests answered, by status code.", (*_LABELS, "code"), registry=self.registry
        )
        wait = Histogram(
            Metric.DOOR_WAIT,
            "Time until a serving pod took the request. Without requests that none took.",
            _LABELS,
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.held, self.wait = held.labels(service), wait.labels(service)
        self._requests = {code: requests.labels(service, code) for code in _CODES}
        self._service, self._counter = service, requests

    def request(self, code: int) -> None:
        """Count an answered request, or one whose client has left."""
        self._counter.labels(self._service, str(code)).inc()
