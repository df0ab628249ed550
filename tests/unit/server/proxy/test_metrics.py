"""What is timed, and how finely."""

from itertools import pairwise

import pytest

from driftloop.contract.names import GENERATING
from driftloop.contract.task import ServeTask
from driftloop_server.openai_api import CHAT, COMPLETIONS, EMBEDDINGS, MODELS, RESPONSES
from driftloop_server.proxy.metrics import (
    BUCKETS,
    CLIENT_GONE,
    LABELS,
    LENGTH_BUCKETS,
    MIN_TOKENS,
    TOKEN_BUCKETS,
    Outcome,
    ProxyMetrics,
)


@pytest.fixture
def metrics() -> ProxyMetrics:
    return ProxyMetrics(
        ServeTask(
            namespace="support",
            service="desk",
            service_uid="5f0c9a0e-1111-4222-8333-444455556666",
            family="desk",
            version="v1",
            revision="r1",
            artefact_uri="pvc://models/v1",
            artefact_digest="sha256:" + "0" * 64,
        )
    )


def timed(metrics: ProxyMetrics, name: str, route: str = CHAT) -> float | None:
    service, revision, version = metrics.constant
    labels = {"inference_service": service, "revision": revision, "model_version": version, "route": route}
    return metrics.registry.get_sample_value(f"driftloop_{name}_seconds_count", labels)


def test_the_routes_that_ask_the_model_are_those_of_the_api() -> None:
    assert set(GENERATING) == {COMPLETIONS, CHAT, RESPONSES}


def test_a_failure_and_a_refusal_are_not_timed_and_a_client_that_went_is(metrics: ProxyMetrics) -> None:
    """Half of the requests refused with 429 made a service quick."""
    for code in (200, 400, 429, 500, 504, CLIENT_GONE):
        metrics.request(CHAT, code, 1.0)
    assert timed(metrics, "request_duration") == 2


def test_an_output_token_is_timed_where_there_are_some(metrics: ProxyMetrics) -> None:
    for tokens in (0, MIN_TOKENS - 1, MIN_TOKENS, 500):
        metrics.request(CHAT, 200, 1.0, Outcome(tokens))
    metrics.request(CHAT, 500, 1.0, Outcome(500))
    assert timed(metrics, "time_per_output_token") == 2
    assert timed(metrics, "time_per_output_token", COMPLETIONS) == 0
    for route in (MODELS, EMBEDDINGS):
        assert timed(metrics, "time_per_output_token", route) is None


def sample(metrics: ProxyMetrics, name: str, **labels: str) -> float | None:
    constant = dict(zip(LABELS, metrics.constant, strict=True))
    return metrics.registry.get_sample_value(name, constant | {"route": CHAT} | labels)


def test_of_an_answer_its_ending_length_and_first_token_are_counted(metrics: ProxyMetrics) -> None:
    metrics.request(CHAT, 200, 1.0, Outcome(3, first_token=0.2, ending="cut"))
    metrics.request(CHAT, 200, 1.0, Outcome(3, first_token=0.2, ending="cut", counts=False))
    metrics.request(CHAT, CLIENT_GONE, 1.0, Outcome(9, first_token=0.2))  # its end is not known
    metrics.request(CHAT, 500, 1.0, Outcome(9, first_token=0.2, ending="empty"))
    assert sample(metrics, "driftloop_answers_total", ending="cut") == 1
    assert sample(metrics, "driftloop_answers_total", ending="empty") == 0
    assert sample(metrics, "driftloop_answer_tokens_sum") == 3
    assert sample(metrics, "driftloop_time_to_first_token_seconds_count") == 2
    assert sample(metrics, "driftloop_request_duration_seconds_count") == 3


def test_a_rating_of_a_user_with_too_many_is_counted_but_not_for_the_canary(metrics: ProxyMetrics) -> None:
    metrics.feedback("r1", "v1", "negative")
    metrics.feedback("r1", "v1", "negative", counts=False)
    labels = dict(zip(LABELS, metrics.constant, strict=True)) | {"rating": "negative"}
    assert metrics.registry.get_sample_value("driftloop_feedback_total", labels) == 2
    assert metrics.registry.get_sample_value("driftloop_rated_answers_total", labels) == 1


def test_lengths_are_fine_enough_for_a_ratio_of_one_and_a_half() -> None:
    assert all(upper / lower < 1.5 or upper - lower == 1 for lower, upper in pairwise(LENGTH_BUCKETS))


@pytest.mark.parametrize("buckets", [BUCKETS, TOKEN_BUCKETS])
def test_buckets_are_fine_enough_for_a_ratio_of_one_and_a_half(buckets: tuple[float, ...]) -> None:
    assert all(1.3 < upper / lower <= 5 / 3 + 1e-9 for lower, upper in pairwise(b for b in buckets if b <= 7000))


def test_buckets_reach_the_longest_request() -> None:
    assert BUCKETS[-1] >= 86_400
