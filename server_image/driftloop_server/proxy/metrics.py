"""The proxy's metrics. Every series carries the labels of the pod's service, revision and version."""

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from driftloop.contract.names import GENERATING, Metric
from driftloop.contract.task import ServeTask
from driftloop_server.openai_api import CHAT, COMPLETIONS, MODELS

# A `_created` beside every counter would double the series and tell nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]

ROUTES = (COMPLETIONS, CHAT, MODELS)
# Prometheus sees no increase in a series that appears with its first event: series start at 0.
_CODES = ("200", "400", "429", "499", "500", "502", "503", "504")
RATINGS = ("positive", "negative", "correction")
SIDES = ("train", "heldOut")
CLIENT_GONE = 499  # nginx's code for a client that closed the connection before the answer
MIN_TOKENS = 16  # of an answer whose time an output token is counted: in a shorter one the prompt's time is most of it
_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)  # a decade; a p95 between two of them is known to a fifth


def _decades(first: int, last: int) -> tuple[float, ...]:
    """_STEPS from 10^first up to below 10^last, exact as decimals."""
    return tuple(float(f"{step}e{power}") for power in range(first, last) for step in _STEPS)


# Up to the longest that a request may be allowed: two arms beyond the last bound would look alike.
BUCKETS = (*_decades(-3, 4), 10_000.0, 20_000.0, 50_000.0, 86_400.0)
TOKEN_BUCKETS = (*_decades(-4, 1), 10.0)
LABELS = ("inference_service", "revision", "model_version")


class ProxyMetrics:
    """Counters and gauges by the names of `contract/names.py`."""

    def __init__(self, task: ServeTask) -> None:
        self.registry = CollectorRegistry()
        self.constant = (task.service, task.revision, task.version)
        self._requests = Counter(
            Metric.REQUESTS,
            "Requests answered, by route and status code.",
            [*LABELS, "route", "code"],
            registry=self.registry,
        )
        self._latency = Histogram(
            Metric.LATENCY,
            "Arrival of a request to the end of its answer, or until its client went. Refusals and failures are quick.",
            [*LABELS, "route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._token_latency = Histogram(
            Metric.TIME_PER_OUTPUT,
            f"The same an output token, of answers with {MIN_TOKENS} or more.",
            [*LABELS, "route"],
            buckets=TOKEN_BUCKETS,
            registry=self.registry,
        )
        self._feedback = Counter(Metric.FEEDBACK, "Ratings taken.", [*LABELS, "rating"], registry=self.registry)
        self._eligible = Counter(
            Metric.FEEDBACK_ELIGIBLE, "Stored rows that a training can use.", [*LABELS, "side"], registry=self.registry
        )
        for route in ROUTES:
            self._latency.labels(*self.constant, route)
            if route in GENERATING:
                self._token_latency.labels(*self.constant, route)
            for code in _CODES:
                self._requests.labels(*self.constant, route, code)
        for rating in RATINGS:
            self._feedback.labels(*self.constant, rating)
        for side in SIDES:
            self._eligible.labels(*self.constant, side)

    def request(self, route: str, code: int, seconds: float, tokens: int = 0) -> None:
        """A request was answered with so many tokens, or given up with CLIENT_GONE."""
        route = MODELS if route.startswith(f"{MODELS}/") else route if route in ROUTES else "other"
        self._requests.labels(*self.constant, route, str(code)).inc()
        if code not in (200, CLIENT_GONE):
            return
        self._latency.labels(*self.constant, route).observe(seconds)
        if route in GENERATING and tokens >= MIN_TOKENS:
            self._token_latency.labels(*self.constant, route).observe(seconds / tokens)

    def feedback(self, revision: str, version: str, rating: str) -> None:
        """A rating of an answer, which a pod of another revision may have given: it counts for that one."""
        self._feedback.labels(self.constant[0], revision, version, rating).inc()

    def eligible(self, revision: str, version: str, side: str) -> None:
        """A row was stored that a training can use."""
        self._eligible.labels(self.constant[0], revision, version, side).inc()
