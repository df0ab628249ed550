"""The choice of the next token."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from driftloop_server.engine.sampling import Sampling, choose, logprobs

GREEDY = Sampling(temperature=0)


def dice(*seeds: int) -> list[float]:
    return [random.Random(seed).random() for seed in seeds]


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert choose(logits, [GREEDY, GREEDY], dice(1, 2)) == [1, 0]


def test_samples_follow_the_softmax_at_the_temperature() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    expected = (logits[0] / 0.7).softmax(-1)
    draw = random.Random(0)
    counts = torch.zeros(3)
    rows = 500
    for _ in range(20):
        for token in choose(
            logits.expand(rows, 3), [Sampling(temperature=0.7)] * rows, [draw.random() for _ in range(rows)]
        ):
            counts[token or 0] += 1
    assert (counts / counts.sum() - expected).abs().max() < 0.02  # six standard errors


@given(st.integers(0, 2**32), st.floats(0.05, 1.0), st.integers(0, 6))
def test_nothing_outside_top_p_and_top_k_is_chosen(seed: int, top_p: float, top_k: int) -> None:
    masses = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04])
    (token,) = choose(masses.log()[None], [Sampling(1.0, top_p, top_k)], dice(seed))
    assert token is not None
    assert float(masses[:token].sum()) < top_p + 1e-6
    assert not top_k or token < top_k


@given(st.integers(0, 2**32), st.integers(0, 4))
def test_a_row_is_chosen_the_same_in_any_company(seed: int, others: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(others + 1, 50, generator=generator)
    alone = choose(logits[-1:], [Sampling(0.9, 0.9)], dice(seed))
    company = [GREEDY if i % 2 else Sampling(1.3) for i in range(others)]
    together = choose(logits, [*company, Sampling(0.9, 0.9)], dice(*range(others), seed))
    assert together[-1] == alone[0]


def test_not_a_number_is_no_choice_and_only_for_its_row() -> None:
    logits = torch.tensor([[0.0, float("nan")], [1.0, 0.0], [float("nan"), 1.0]])
    assert choose(logits, [GREEDY, GREEDY, Sampling(1.0)], dice(1, 2, 3)) == [None, 0, None]


def test_logprobs_are_of_the_model_itself() -> None:
    logits = torch.tensor([[9.0, 9.0], [0.0, 1.0]])
    (found,) = logprobs(logits, [1], [0], top=2)
    assert found.token == 0
    assert found.logprob == pytest.approx(-1.3133, abs=1e-3)
    assert [token for token, _ in found.top] == [1, 0]
    assert logprobs(logits, [1], [0], top=0)[0].top == ()
