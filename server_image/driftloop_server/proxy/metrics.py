"""The proxy's metrics. Every series has labels for service, revision and version."""

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from driftloop.contract.names import GENERATING, Metric
from driftloop.contract.task import ServeTask
from driftloop_server.openai_api import CHAT, COMPLETIONS, EMBEDDINGS, MODELS, RESPONSES

# By default each counter has a second series, `_created`, which nothing here needs:
# https://github.com/prometheus/client_python/issues/672
disable_created_metrics()  # type: ignore[no-untyped-call]

ROUTES = (COMPLETIONS, CHAT, RESPONSES, EMBEDDINGS, MODELS)
# Series start at 0, as Prometheus sees no increase in a series that appears with its first event:
# https://github.com/prometheus/prometheus/issues/1673
_CODES = ("200", "400", "429", "499", "500", "502", "503", "504")
RATINGS = ("positive", "negative", "correction")
SIDES = ("train", "heldOut")
CLIENT_GONE = 499  # nginx's code for a client that closed the connection before the answer
MIN_TOKENS = 16  # shorter answers have no time per output token: most of their time is for the prompt
_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)  # bounds per decade: a p95 is known to a fifth


def _decades(first: int, last: int) -> tuple[float, ...]:
    """_STEPS from 10^first to below 10^last, as exact decimals."""
    return tuple(float(f"{step}e{power}") for power in range(first, last) for step in _STEPS)


# Up to the maximal timeout of a request: beyond the last bound, slow and very slow arms would look the same.
BUCKETS = (*_decades(-3, 4), 10_000.0, 20_000.0, 50_000.0, 86_400.0)
TOKEN_BUCKETS = (*_decades(-4, 1), 10.0)
LABELS = ("inference_service", "revision", "model_version")


class ProxyMetrics:
    """Counters and histograms with the names in `contract/names.py`."""

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
            "Time from arrival of a request to the end of its answer, or until its client left. Without errors.",
            [*LABELS, "route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._token_latency = Histogram(
            Metric.TIME_PER_OUTPUT,
            f"The same time per output token, of answers with {MIN_TOKENS} tokens or more.",
            [*LABELS, "route"],
            buckets=TOKEN_BUCKETS,
            registry=self.registry,
        )
        self._feedback = Counter(Metric.FEEDBACK, "Ratings accepted.", [*LABELS, "rating"], registry=self.registry)
        self._eligible = Counter(
            Metric.FEEDBACK_ELIGIBLE, "Stored rows that training can use.", [*LABELS, "side"], registry=self.registry
        )
        self._client_requests = Counter(
            Metric.CLIENT_REQUESTS,
            "Requests by client and status code, where clients need API keys.",
            [*LABELS, "client", "code"],
            registry=self.registry,
        )
        self._client_tokens = Counter(
            Metric.CLIENT_TOKENS, "Output tokens by client.", [*LABELS, "client"], registry=self.registry
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
        """Count an answered request, or one whose client has left (CLIENT_GONE). `tokens`: output tokens."""
        route = MODELS if route.startswith(f"{MODELS}/") else route if route in ROUTES else "other"
        self._requests.labels(*self.constant, route, str(code)).inc()
        if code not in (200, CLIENT_GONE):
            return
        self._latency.labels(*self.constant, route).observe(seconds)
        if route in GENERATING and tokens >= MIN_TOKENS:
            self._token_latency.labels(*self.constant, route).observe(seconds / tokens)

    def client(self, name: str, code: int, tokens: int = 0) -> None:
        """Count a request of a client with an API key."""
        self._client_requests.labels(*self.constant, name, str(code)).inc()
        self._client_tokens.labels(*self.constant, name).inc(tokens)

    def feedback(self, revision: str, version: str, rating: str) -> None:
        """Count a rating for the revision that gave the answer, which may differ from this pod's."""
        self._feedback.labels(self.constant[0], revision, version, rating).inc()

    def eligible(self, revision: str, version: str, side: str) -> None:
        """Count a stored row that training can use."""
        self._eligible.labels(self.constant[0], revision, version, side).inc()
