"""The proxy's metrics. Every series has labels for service, revision and version."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from driftloop.contract.names import CHOSEN_ROUTE, ENDINGS, GENERATING, SHADOW_DROPS, SHADOW_MEASURES, Metric
from driftloop.contract.task import ServeTask
from driftloop_server.openai_api import CHAT, COMPLETIONS, EMBEDDINGS, MODELS, RESPONSES
from driftloop_server.proxy.answers import Ending

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
# Tokens of an answer. Each number up to 8 has a bucket, so that answers of a few tokens are not mixed up.
LENGTH_BUCKETS = (
    *(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
    *(float(round(base * 2**power)) for power in range(3, 17) for base in (1.25, 1.5, 1.75, 2.0)),
)
LABELS = ("inference_service", "revision", "model_version")


@dataclass(frozen=True)
class Outcome:
    """What the metrics count of an answer."""

    tokens: int = 0  # output tokens; 0: unknown
    first_token: float | None = None  # seconds until the first token of a stream
    ending: Ending | None = None  # None: the answer is not complete
    counts: bool = True  # whether it counts among the answers for the canary (weights.py)


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
        self.in_progress = Gauge(
            Metric.IN_PROGRESS,
            "Requests of users whose answer has not ended, also while they wait for the engine.",
            LABELS,
            registry=self.registry,
        ).labels(*self.constant)
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
        self._first_token = Histogram(
            Metric.FIRST_TOKEN,
            "Time from arrival of a request to the first token of its stream.",
            [*LABELS, "route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._answers = Counter(
            Metric.ANSWERS,
            "Complete answers by their ending, of which no client has too large a share.",
            [*LABELS, "route", "ending"],
            registry=self.registry,
        )
        self._answer_tokens = Histogram(
            Metric.ANSWER_TOKENS,
            "Output tokens of the same answers.",
            [*LABELS, "route"],
            buckets=LENGTH_BUCKETS,
            registry=self.registry,
        )
        self._feedback = Counter(Metric.FEEDBACK, "Ratings accepted.", [*LABELS, "rating"], registry=self.registry)
        self._rated = Counter(
            Metric.RATED,
            "Ratings accepted, of which no user has too large a share.",
            [*LABELS, "rating"],
            registry=self.registry,
        )
        self._eligible = Counter(
            Metric.FEEDBACK_ELIGIBLE, "Stored rows that training can use.", [*LABELS, "side"], registry=self.registry
        )
        self._shadow_pairs = Counter(
            Metric.SHADOW_PAIRS,
            "Pairs of answers of this revision and a candidate without users, by who is worse.",
            [*LABELS, "candidate", "measure", "outcome"],
            registry=self.registry,
        )
        self._shadow_dropped = Counter(
            Metric.SHADOW_DROPPED,
            "Copies of requests without a pair.",
            [*LABELS, "candidate", "reason"],
            registry=self.registry,
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
                self._first_token.labels(*self.constant, route)
                self._answer_tokens.labels(*self.constant, route)
                for ending in ENDINGS:
                    self._answers.labels(*self.constant, route, ending)
            for code in _CODES:
                self._requests.labels(*self.constant, route, code)
        for rating in RATINGS:
            self._feedback.labels(*self.constant, rating)
            self._rated.labels(*self.constant, rating)
        for side in SIDES:
            self._eligible.labels(*self.constant, side)

    def request(self, route: str, code: int, seconds: float, outcome: Outcome = Outcome()) -> None:
        """Count an answered request, or one whose client has left (CLIENT_GONE)."""
        route = MODELS if route.startswith(f"{MODELS}/") else route if route in (*ROUTES, CHOSEN_ROUTE) else "other"
        self._requests.labels(*self.constant, route, str(code)).inc()
        if code not in (200, CLIENT_GONE):
            return
        self._latency.labels(*self.constant, route).observe(seconds)
        if route not in GENERATING:
            return
        if outcome.tokens >= MIN_TOKENS:
            self._token_latency.labels(*self.constant, route).observe(seconds / outcome.tokens)
        if outcome.counts:
            self._answer(route, code, outcome)

    def _answer(self, route: str, code: int, outcome: Outcome) -> None:
        if outcome.first_token is not None:
            self._first_token.labels(*self.constant, route).observe(outcome.first_token)
        if code != 200 or outcome.ending is None:
            return
        self._answers.labels(*self.constant, route, outcome.ending).inc()
        if outcome.tokens:
            self._answer_tokens.labels(*self.constant, route).observe(outcome.tokens)

    def client(self, name: str, code: int, tokens: int = 0) -> None:
        """Count a request of a client with an API key."""
        self._client_requests.labels(*self.constant, name, str(code)).inc()
        self._client_tokens.labels(*self.constant, name).inc(tokens)

    def feedback(self, revision: str, version: str, rating: str, *, counts: bool = True) -> None:
        """Count a rating for the revision that gave the answer, which may differ from this pod's.

        `counts`: whether it counts for the canary (weights.py).
        """
        self._feedback.labels(self.constant[0], revision, version, rating).inc()
        if counts:
            self._rated.labels(self.constant[0], revision, version, rating).inc()

    def eligible(self, revision: str, version: str, side: str) -> None:
        """Count a stored row that training can use."""
        self._eligible.labels(self.constant[0], revision, version, side).inc()

    def shadow_of(self, candidate: str) -> None:
        """Start the series about a candidate at 0."""
        for measure, outcomes in SHADOW_MEASURES.items():
            for outcome in outcomes:
                self._shadow_pairs.labels(*self.constant, candidate, measure, outcome)
        for reason in SHADOW_DROPS:
            self._shadow_dropped.labels(*self.constant, candidate, reason)

    def shadow_pair(self, candidate: str, measure: str, outcome: str) -> None:
        """Count a pair of answers."""
        self._shadow_pairs.labels(*self.constant, candidate, measure, outcome).inc()

    def shadow_dropped(self, candidate: str, reason: str) -> None:
        """Count a copy that makes no pair."""
        self._shadow_dropped.labels(*self.constant, candidate, reason).inc()
