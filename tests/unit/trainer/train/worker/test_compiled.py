"""Compiled layers in one process: how often they are compiled, and what happens if they can't be."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.backends.registry import register_backend
from torch._dynamo.utils import counters

from driftloop_trainer.compiler import has_compiler
from driftloop_trainer.train.worker.compiled import bucket, compile_layers
from unit.trainer.sharded_run import tiny_model

SHAPES = ((2, 16), (2, 24), (3, 24), (4, 40), (1, 40), (1, 16), (5, 8), (3, 48), (2, 16))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """torch's compiler as a new process has it."""
    with torch._dynamo.config.patch(suppress_errors=False):
        torch._dynamo.reset()
        counters.clear()
        yield
        torch._dynamo.reset()


def step(model: Any, rows: int, tokens: int) -> dict[str, torch.Tensor]:
    """The loss of random rows and its gradients."""
    random = torch.Generator().manual_seed(rows * tokens)
    ids = torch.randint(64, (rows, tokens), generator=random)
    model.zero_grad()
    loss = model(ids, use_cache=False).logits.logsumexp(-1).sum()
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad.clone() for name, p in model.named_parameters()}


def same(backend: str, shapes: tuple[tuple[int, int], ...]) -> None:
    """Check that compiled layers give the loss and the gradients of plain ones."""
    plain, model = tiny_model(), tiny_model()
    compile_layers(model, backend)
    for rows, tokens in shapes:
        expected, found = step(plain, rows, tokens), step(model, rows, tokens)
        for name, value in expected.items():
            assert torch.allclose(found[name], value, rtol=1e-10, atol=1e-12), name


def test_all_layers_and_shapes_share_the_code_of_a_few() -> None:
    same("aot_eager", SHAPES)
    assert 0 < counters["stats"]["unique_graphs"] <= 4  # two layers and nine shapes
    assert counters["frames"]["ok"] == counters["frames"]["total"]


@pytest.mark.timeout(600)
@pytest.mark.skipif(not has_compiler(), reason="torch compiles for CPUs with g++: apt-get install g++")
def test_code_for_the_cpu_gives_the_same() -> None:
    same("inductor", SHAPES[:2])
    assert counters["stats"]["unique_graphs"] > 0
    assert counters["frames"]["ok"] == counters["frames"]["total"]


def test_what_cannot_be_compiled_runs_as_it_is() -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such kernel")

    register_backend(broken, name="broken")
    same("broken", SHAPES[:1])


@given(st.integers(1, 1_048_576))
def test_rows_are_padded_by_an_eighth_at_most(tokens: int) -> None:
    width = bucket(tokens)
    assert width % 8 == 0
    assert bucket(width) == width
    assert tokens <= width <= max(tokens + 7, tokens * 9 / 8)
