"""What needs no Prometheus; the queries are tested in tests/control_plane/test_observe.py."""

import math
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import aiohttp

from driftloop.contract.names import ANSWER_LENGTH, UNANSWERED
from driftloop.controller.drift.detector import FEEDBACK
from driftloop.controller.runtime.readings.prometheus import Prometheus
from driftloop.controller.traffic import LENGTHS, Answers, Arm, arms, eligible_samples, read_batch, selector
from driftloop.controller.vocabulary.samples import Sample
from driftloop.controller.vocabulary.world import Queries, World

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def test_without_prometheus_nothing_is_known() -> None:
    async with aiohttp.ClientSession() as session:
        none = cast(World, SimpleNamespace(metrics=Prometheus(session, None), now=lambda: START))
        assert await read_batch(none.metrics, "ns", "desk", "v1", START, START + timedelta(seconds=60)) is None
        assert await eligible_samples(none, "ns", "desk", START - timedelta(hours=1)) is None
        assert await arms(none, "ns", "desk", ["r-v1"], START - timedelta(hours=1)) is None


def test_a_label_s_value_can_not_leave_its_quotes() -> None:
    assert selector(["m"], {"a": 'x"} or {b="\\\n'}) == '{__name__=~"m",a="x\\"} or {b=\\"\\\\\\n"}'


def counted(name: str, value: float, **labels: str) -> Sample:
    of = {"__name__": name, "revision": "r-v1"}
    return Sample(of | labels, value)


class Readings:
    """A Prometheus whose counters began in the window."""

    def __init__(self, *ends: Sample) -> None:
        self._answers = [list(ends), []]

    async def query(self, promql: str, at: datetime | None = None) -> list[Sample]:
        return self._answers.pop(0)


async def test_an_arm_is_what_was_asked_of_the_model() -> None:
    """A pod whose list of models is polled, or that refuses half of its requests at once, looked well and quick."""
    chat, models = "/v1/chat/completions", "/v1/models"
    readings = Readings(
        *(
            counted("driftloop_requests_total", 100, route=chat, code=code)
            for code in ("200", "429", "499", "400", "500", "504")
        ),
        counted("driftloop_requests_total", 5000, route=models, code="200"),
        counted("driftloop_request_duration_seconds_bucket", 100, route=chat, le="+Inf"),
        counted("driftloop_request_duration_seconds_bucket", 40, route=chat, le="1.0"),
        counted("driftloop_request_duration_seconds_bucket", 5000, route=models, le="+Inf"),
        counted("driftloop_time_per_output_token_seconds_bucket", 7, route=chat, le="+Inf"),
        counted("driftloop_feedback_total", 3, rating="correction"),
    )
    found = await arms(
        cast(World, SimpleNamespace(metrics=readings, now=lambda: START)),
        "ns",
        "desk",
        ["r-v1", "r-v2"],
        START - timedelta(hours=1),
    )
    assert found is not None
    assert found["r-v1"] == Arm(
        600, 300, 100, left=100, latency={1.0: 40, math.inf: 100}, token_latency={math.inf: 7}, ratings=3, negative=3
    )
    assert found["r-v2"] == Arm(0, 0)


async def test_answers_are_known_only_from_pods_that_count_them_and_their_ratings_count_less() -> None:
    chat = "/v1/chat/completions"
    readings = Readings(
        counted("driftloop_answers_total", 90, route=chat, ending="complete"),
        counted("driftloop_answers_total", 10, route=chat, ending="cut"),
        counted("driftloop_answer_tokens_bucket", 100, route=chat, le="+Inf"),
        counted("driftloop_time_to_first_token_seconds_bucket", 50, route=chat, le="+Inf"),
        counted("driftloop_feedback_total", 30, rating="negative"),
        counted("driftloop_rated_answers_total", 3, rating="negative"),
        Sample({"__name__": "driftloop_feedback_total", "revision": "r-v2", "rating": "negative"}, 30),
    )
    world = cast(World, SimpleNamespace(metrics=readings, now=lambda: START))
    found = await arms(world, "ns", "desk", ["r-v1", "r-v2"], START - timedelta(hours=1))
    assert found is not None
    assert found["r-v1"].answers == Answers({"complete": 90, "cut": 10}, {math.inf: 100}, {math.inf: 50})
    assert (found["r-v1"].ratings, found["r-v2"].ratings) == (3, 30)
    assert found["r-v2"].answers is None


async def test_the_answers_of_a_version_are_counted_by_length_and_ending() -> None:
    answers, tokens = "driftloop_answers_total", "driftloop_answer_tokens_bucket"
    up_to = {"1.0": 4.0, "8.0": 10.0, "10.0": 11.0, "12.0": 15.0, "131072.0": 19.0, "+Inf": 20.0}
    readings = Readings(
        *(
            counted(answers, value, route="/v1/completions", ending=ending)
            for ending, value in (("complete", 14.0), ("cut", 3.0), ("empty", 2.0), ("refused", 1.0))
        ),
        counted(answers, 50.0, route="chosen", ending="refused"),
        *(counted(tokens, value, route="/v1/completions", le=le) for le, value in up_to.items()),
    )
    found = await read_batch(cast(Queries, readings), "ns", "desk", "v1", START, START + timedelta(seconds=60))
    assert found is not None
    assert found.bins[UNANSWERED] == (17.0, 3.0)
    lengths = found.bins[ANSWER_LENGTH]
    assert (lengths[0], lengths[LENGTHS.index(8)], lengths[LENGTHS.index(12)], lengths[-1]) == (4.0, 6.0, 5.0, 5.0)
    assert sum(lengths) == 20.0
    assert len(lengths) == len(LENGTHS) + 1


async def test_a_proxy_that_counts_no_answers_has_no_signals_of_them() -> None:
    readings = Readings(counted("driftloop_feedback_total", 2.0, rating="positive"))
    found = await read_batch(cast(Queries, readings), "ns", "desk", "v1", START, START + timedelta(seconds=60))
    assert found is not None
    assert set(found.bins) == {FEEDBACK}
