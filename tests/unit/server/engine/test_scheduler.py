"""The model thread outlives every request, and gives up only when the model does."""

import itertools
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import generate_latest

from driftloop_server.engine import cache, scheduler
from driftloop_server.engine.batch import Batch
from driftloop_server.engine.metrics import EngineMetrics
from driftloop_server.engine.model import LoadedModel, load
from driftloop_server.engine.sampling import Sampling
from driftloop_server.engine.scheduler import QueueFull, Scheduler
from driftloop_server.engine.sequence import Generation, Output

POISON = 390  # a token that the faulty model chokes on


class Faulty(torch.nn.Module):
    """The real model, but for prompts with the poison token, and for everything once `dead`.

    `rows` and `cells` bound what it has memory for in one pass; `passes` are the shapes of what it was given.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.device = model.device
        self.dead = False
        self.rows, self.poison = 1000, POISON
        self.passes: list[tuple[int, int]] = []
        self.forward = self._forward  # the batch asks for its parameters
        self.gate = threading.Event()
        self.gate.set()

    def _forward(self, input_ids: torch.Tensor, position_ids: Any = None, logits_to_keep: int = 0, **more: Any) -> Any:
        self.gate.wait(30)
        self.passes.append((input_ids.shape[0], input_ids.shape[1]))
        if self.dead or self.poison in input_ids:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if input_ids.shape[0] > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return self.inner(input_ids, position_ids=position_ids, logits_to_keep=logits_to_keep, **more)


class Bench:
    """A scheduler with its model, and a client that waits."""

    def __init__(self, loaded: LoadedModel, **limits: int) -> None:
        self.model = Faulty(loaded.model)
        self.metrics = EngineMetrics("desk")
        self.broken = threading.Event()
        self.scheduler = Scheduler(
            Batch(self.model),
            loaded.decode,
            self.metrics,
            broken=self.broken.set,
            **({"max_num_seqs": 4, "max_waiting": 100, "cache_cells": 40_000} | limits),
        )
        self.scheduler.start()

    def submit(
        self,
        prompt: list[int],
        max_tokens: int = 8,
        sampling: Sampling = Sampling(temperature=0),  # noqa: B008 - immutable
        client: str | None = None,
        **more: Any,
    ) -> queue.Queue[Output]:
        outputs: queue.Queue[Output] = queue.Queue()
        self.request = self.scheduler.submit(Generation(prompt, max_tokens, sampling, **more), outputs.put, client)
        return outputs

    def value(self, name: str) -> float:
        """Of a metric; 0 if it is not there."""
        text = generate_latest(self.metrics.registry).decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def together(self, *submissions: dict[str, Any]) -> list[queue.Queue[Output]]:
        """All of them are there before one of them begins."""
        self.model.gate.clear()
        self.submit([1], max_tokens=2)
        while self.scheduler.waiting:
            time.sleep(0.001)
        found = [self.submit(**each) for each in submissions]
        self.model.gate.set()
        return found


@pytest.fixture(scope="module")
def loaded(model_folder: Path) -> LoadedModel:
    return load(model_folder)


@pytest.fixture
def bench(loaded: LoadedModel) -> Iterator[Bench]:
    found = Bench(loaded)
    yield found
    found.model.gate.set()
    found.scheduler.close()


def last(outputs: queue.Queue[Output]) -> Output:
    while not (output := outputs.get(timeout=240)).last:
        pass
    return output


def test_a_prompt_that_fails_takes_no_other_with_it(bench: Bench) -> None:
    expected = last(bench.submit([1, 2, 3])).text
    bench.model.gate.clear()  # so that they arrive together
    first = bench.submit([5])
    good, bad, fine = bench.submit([1, 2, 3]), bench.submit([POISON]), bench.submit([1, 2, 3])
    bench.model.gate.set()
    assert (last(good).text, last(fine).text) == (expected, expected)
    assert "failed on this prompt" in (last(bad).error or "")
    assert last(first).finish_reason == "length"
    assert not bench.broken.is_set()


def test_a_model_that_is_dead_ends_the_engine_and_nobody_waits_for_ever(bench: Bench) -> None:
    last(bench.submit([1]))
    bench.model.gate.clear()
    waiting = [bench.submit([i + 1], max_tokens=50) for i in range(6)]
    bench.model.dead = True
    bench.model.gate.set()
    assert all(last(outputs).error for outputs in waiting)
    assert bench.broken.wait(10)
    with pytest.raises(QueueFull):
        bench.submit([1])


def test_weights_that_are_not_numbers_are_an_error(bench: Bench) -> None:
    embeddings = bench.model.inner.get_input_embeddings().weight
    with torch.no_grad():
        kept, embeddings[7] = embeddings[7].clone(), float("nan")
    try:
        assert "not a number" in (last(bench.submit([7])).error or "")
        assert last(bench.submit([1])).finish_reason == "length"
    finally:
        with torch.no_grad():
            embeddings[7] = kept


def test_more_than_the_queue_holds_is_refused(loaded: LoadedModel) -> None:
    bench = Bench(loaded, max_num_seqs=1, max_waiting=2)
    bench.model.gate.clear()
    taken = [bench.submit([1])]
    while bench.scheduler.load < 3:
        try:
            taken.append(bench.submit([1]))
        except QueueFull:
            continue  # the first one is on its way into the batch
    while True:
        try:
            taken.append(bench.submit([1]))
        except QueueFull:
            break
    assert len(taken) <= 4
    bench.model.gate.set()
    assert all(last(outputs).finish_reason for outputs in taken)
    bench.scheduler.close()


def test_the_metrics_tell_how_requests_ended(bench: Bench) -> None:
    whole = last(bench.submit([1, 2, 3], max_tokens=12))
    last(bench.submit([1, 2, 3], max_tokens=12, stops=(whole.text[2:4],)))
    cancelled = bench.submit([1], max_tokens=3)
    last(cancelled)
    bench.scheduler.close()
    text = generate_latest(bench.metrics.registry).decode()
    assert 'vllm:request_success_total{finished_reason="length",model_name="desk"} 2.0' in text
    assert 'vllm:request_success_total{finished_reason="stop",model_name="desk"} 1.0' in text
    assert 'vllm:prompt_tokens_total{model_name="desk"} 7.0' in text
    assert 'vllm:time_to_first_token_seconds_count{model_name="desk"} 3.0' in text


SAMPLED = Sampling(temperature=1.0, top_p=0.95)
ASKED: list[dict[str, Any]] = [
    {"prompt": [1, 2, 3], "max_tokens": 20},
    {"prompt": [40 + i for i in range(30)], "max_tokens": 25, "sampling": SAMPLED, "seed": 7},
    {"prompt": [9], "max_tokens": 30, "logprobs": 2},
    {"prompt": [8, 7], "max_tokens": 15, "sampling": SAMPLED, "seed": 8, "stream": True},
]


def text(outputs: queue.Queue[Output]) -> str:
    """All of the answer, or what went wrong."""
    found = ""
    while not (output := outputs.get(timeout=240)).last:
        found += output.text
    return output.error or found + output.text


@pytest.fixture
def answers(bench: Bench) -> list[str]:
    """What each of ASKED is answered alone."""
    return [text(bench.submit(**each)) for each in ASKED]


def test_a_row_that_fails_in_a_step_fails_alone(bench: Bench, answers: list[str]) -> None:
    token = 77
    bench.model.poison = token  # none of the others meets it
    victim: dict[str, Any] = {"prompt": [5, 6], "max_tokens": 30}
    bench.together()  # no step is under way
    original = bench.scheduler._choose

    def choose_poison(requests: Any, logits: Any) -> Any:
        found = original(requests, logits)
        return [
            (token, None) if list(r.generation.prompt) == [5, 6] else c for r, c in zip(requests, found, strict=True)
        ]

    bench.scheduler._choose = choose_poison  # type: ignore[method-assign]
    *others, bad = bench.together(*ASKED[:3], victim)
    assert [text(each) for each in others] == answers[:3]
    output = last(bad)
    assert "failed on this request" in (output.error or "")
    assert output.status == 500
    assert not bench.broken.is_set()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0, top_p="much"), Sampling(1.0, top_k="many"), Sampling(10**400)],  # type: ignore[arg-type]
)
def test_a_sampling_that_fails_fails_alone(bench: Bench, answers: list[str], sampling: Sampling) -> None:
    *others, bad = bench.together(*ASKED[:3], {"prompt": [5], "sampling": sampling})
    assert [text(each) for each in others] == answers[:3]
    assert "can't be chosen" in (last(bad).error or "")


def test_a_top_k_that_no_float_holds_is_all_tokens(bench: Bench) -> None:
    few, many = (bench.submit([5], sampling=Sampling(1.0, top_k=k), seed=3) for k in (0, 10**400))
    assert text(few) == text(many)


def test_text_that_can_not_be_made_fails_alone(bench: Bench, answers: list[str]) -> None:
    decode = bench.scheduler._decode

    def fails(tokens: Any) -> str:
        raise OverflowError("out of range integral type conversion attempted")

    bench.scheduler._decode = fails
    bad = bench.submit([5])
    bench.scheduler._decode = decode
    others = bench.together(*ASKED)
    assert "can't be turned into text" in text(bad)
    assert [text(each) for each in others] == answers


def test_out_of_memory_sends_the_newest_back_and_nobody_notices(bench: Bench, answers: list[str]) -> None:
    bench.model.rows = 2
    assert [text(each) for each in bench.together(*ASKED)] == answers
    assert bench.value("vllm:num_preemptions_total") > 0
    assert bench.value('vllm:request_success_total{finished_reason="abort"') == 0


def test_out_of_memory_alone_is_the_requests_own(bench: Bench) -> None:
    bench.model.rows = 0
    output = last(bench.submit([1]))
    assert output.status == 503
    assert "no memory" in (output.error or "")
    bench.model.rows = 1000
    assert last(bench.submit([1])).finish_reason


def test_rows_that_outgrow_the_cache_send_the_newest_back(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, answers: list[str]
) -> None:
    """Four rows begin in 40 cells; grown, they would need 320."""
    monkeypatch.setattr(cache, "FLOOR", 8)
    bench = Bench(loaded, cache_cells=100)
    usages: list[float] = []
    monkeypatch.setattr(bench.metrics.cache_usage, "set", usages.append)
    assert [text(each) for each in bench.together(*ASKED)] == answers
    assert bench.value("vllm:num_preemptions_total") > 0
    assert 0.5 < max(usages) <= 1.6  # between a step and the next turn a row may be one token too long
    bench.scheduler.close()


def test_no_more_begin_than_the_cache_holds(loaded: LoadedModel) -> None:
    bench = Bench(loaded, max_num_seqs=8, cache_cells=3 * 640)
    outputs = bench.together(*({"prompt": [i + 1], "max_tokens": 20} for i in range(8)))
    assert all(last(each).finish_reason for each in outputs)
    assert max(rows for rows, _ in bench.model.passes) == 3
    assert bench.value("vllm:num_preemptions_total") == 0
    bench.scheduler.close()


class Clock:
    """A millisecond for each token that the model is given."""

    def __init__(self, model: Faulty) -> None:
        self._model = model

    def monotonic(self) -> float:
        return sum(rows * columns for rows, columns in self._model.passes) / 1000


def test_a_long_prompt_is_read_between_the_steps_of_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients have half the time each: a piece of 32 tokens, then 32 steps."""
    long = [3 + i % 300 for i in range(2000)]
    monkeypatch.setattr(scheduler, "time", Clock(bench.model))
    alone = text(bench.submit(long, client="long"))
    bench.submit([1, 2], max_tokens=30_000, client="short")
    running = bench.request
    while bench.scheduler.waiting:
        time.sleep(0.001)
    begun = len(bench.model.passes)
    assert text(bench.submit(long, client="long")) == alone
    bench.scheduler.cancel(running)
    pieces = [i for i, (_, columns) in enumerate(bench.model.passes) if i > begun and columns > 2]
    assert len(pieces) > 50
    assert all(30 < after - before < 35 for before, after in itertools.pairwise(pieces[2:]))


def test_short_prompts_pass_a_long_one(bench: Bench) -> None:
    order: list[str] = []
    bench.model.gate.clear()
    for name, prompt in [("long", [5] * 6000), *((f"short {i}", [i + 1] * 20) for i in range(6))]:
        generation = Generation(prompt, 2, Sampling(temperature=0))
        bench.scheduler.submit(generation, lambda output, name=name: order.append(name), "one client")  # type: ignore[misc]
    bench.model.gate.set()
    while len(order) < 7:
        assert not bench.broken.wait(0.01)
    assert order[-1] == "long"


def test_a_burst_of_one_client_leaves_places_to_the_others(bench: Bench) -> None:
    """Four places: the burst has three, and who comes after all of it begins at once."""
    last(bench.submit([1], client="other"))
    burst = bench.together(*({"prompt": [i + 1], "max_tokens": 200, "client": "burst"} for i in range(20)))
    while bench.scheduler.waiting > 17:
        time.sleep(0.001)
    assert last(bench.submit([1], client="other")).finish_reason
    assert sum(each.qsize() for each in burst) == 0


def test_a_full_queue_takes_from_who_has_most_in_it(loaded: LoadedModel) -> None:
    bench = Bench(loaded, max_num_seqs=1, max_waiting=4)
    burst = bench.together(*({"prompt": [1], "client": "burst"} for _ in range(4)))
    bench.model.gate.clear()
    while bench.scheduler.waiting < 4:
        burst.append(bench.submit([1], client="burst"))
    other = bench.submit([1], client="other")
    with pytest.raises(QueueFull):
        bench.submit([1], client="burst")
    bench.model.gate.set()
    assert last(other).finish_reason
    statuses = [output.status for output in map(last, burst) if output.error]
    assert statuses == [429]
    bench.scheduler.close()


def test_who_left_is_not_begun(bench: Bench) -> None:
    bench.model.gate.clear()
    running = bench.submit([1], max_tokens=50)
    while bench.scheduler.waiting:
        time.sleep(0.001)
    for _ in range(3):
        bench.submit([2] * 33)
        bench.scheduler.cancel(bench.request)
    assert bench.scheduler.load == 1
    bench.model.gate.set()
    last(running)
    assert {columns for _, columns in bench.model.passes} == {1}


def test_who_leaves_is_not_read_further(bench: Bench) -> None:
    bench.submit([1], max_tokens=30_000)
    running = bench.request
    bench.submit([3] * 9000)
    while not any(columns > 1 for _, columns in bench.model.passes):
        time.sleep(0.001)
    bench.scheduler.cancel(bench.request)
    while bench.scheduler.load > 1:
        time.sleep(0.001)
    bench.scheduler.cancel(running)
    assert sum(columns for _, columns in bench.model.passes if columns > 1) < 4500


def test_scored_prompts_share_the_engine_with_others(bench: Bench) -> None:
    prompts = [[5, 6, 7, 8 + n] for n in range(3)]
    scored = [bench.submit(prompt, scored=2) for prompt in prompts]
    plain = bench.submit([5, 6, 7])
    for prompt, outputs in zip(prompts, scored, strict=True):
        assert [score.token for score in outputs.get(timeout=30).prompt_logprobs] == prompt[1:]
    assert plain.get(timeout=30).prompt_logprobs == []
