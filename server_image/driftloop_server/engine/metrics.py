"""The engine's metrics, under vLLM's names, so that dashboards and autoscalers made for vLLM work here."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

# By default each counter has a second series, `_created`, which nothing here needs:
# https://github.com/prometheus/client_python/issues/672
disable_created_metrics()  # type: ignore[no-untyped-call]

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class EngineMetrics:
    """All series have vLLM's label model_name."""

    def __init__(self, model_name: str) -> None:
        self.registry = registry = CollectorRegistry()
        label = ["model_name"]

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, label, registry=registry).labels(model_name)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, label, registry=registry).labels(model_name)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, label, registry=registry, buckets=buckets).labels(model_name)

        self.running = gauge("vllm:num_requests_running", "Requests in the batch.")
        self.waiting = gauge("vllm:num_requests_waiting", "Requests waiting for a place in the batch.")
        self.cache_usage = gauge("vllm:kv_cache_usage_perc", "Share of the cache in use; 1 is full.")
        self.first_token = histogram("vllm:time_to_first_token_seconds", "Time from arrival to first token.", _LONG)
        self.between_tokens = histogram("vllm:inter_token_latency_seconds", "Time between two tokens.", _SHORT)
        self.duration = histogram("vllm:e2e_request_latency_seconds", "Time from arrival to last token.", _LONG)
        self.prompt_tokens = counter("vllm:prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens generated.")
        self.preemptions = counter("vllm:num_preemptions", "Requests that lost their place for lack of memory.")
        success = Counter("vllm:request_success", "Requests finished.", [*label, "finished_reason"], registry=registry)
        self.finished = {reason: success.labels(model_name, reason) for reason in ("stop", "length", "abort")}
