"""The model thread outlives every request, and gives up only when the model does."""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import generate_latest

from driftloop_server.engine.batch import Batch
from driftloop_server.engine.metrics import EngineMetrics
from driftloop_server.engine.model import LoadedModel, load
from driftloop_server.engine.sampling import Sampling
from driftloop_server.engine.scheduler import QueueFull, Scheduler
from driftloop_server.engine.sequence import Generation, Output

POISON = 390  # a token that the faulty model chokes on


class Faulty(torch.nn.Module):
    """The real model, but for prompts with the poison token, and for everything once `dead`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.device = model.device
        self.dead = False
        self.forward = self._forward  # the batch asks for its parameters
        self.gate = threading.Event()
        self.gate.set()

    def _forward(self, input_ids: torch.Tensor, position_ids: Any = None, logits_to_keep: int = 0, **more: Any) -> Any:
        self.gate.wait(30)
        if self.dead or POISON in input_ids:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
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
            **({"max_num_seqs": 4, "max_waiting": 100, "cache_tokens": 1024} | limits),
        )
        self.scheduler.start()

    def submit(self, prompt: list[int], max_tokens: int = 8, **more: Any) -> queue.Queue[Output]:
        outputs: queue.Queue[Output] = queue.Queue()
        self.scheduler.submit(Generation(prompt, max_tokens, Sampling(temperature=0), **more), outputs.put)
        return outputs


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
    while not (output := outputs.get(timeout=30)).last:
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
