"""Pairs of answers: bounds that hold at every look, and answers that come."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.kinds.inferenceservice.paired import bounds_of_pairs, judge_pairs
from driftloop.controller.traffic import Pairs
from parts import examples

counts = st.integers(0, 3000)


@examples(50)
@given(counts, counts, counts)
def test_the_answer_is_that_of_the_bounds_and_the_sides_are_alike(candidate: int, stable: int, neither: int) -> None:
    pairs, swapped = Pairs(candidate, stable, neither), Pairs(stable, candidate, neither)
    found = bounds_of_pairs(pairs)
    assert -1 <= found.lower <= found.upper <= 1
    if pairs.total:
        assert found.lower <= pairs.difference <= found.upper
        answer = judge_pairs(pairs, 0.1)
        assert (answer == "NotWorse") == (found.upper < 0.1)
        assert (answer == "Worse") == (found.lower > 0.1)
        assert judge_pairs(swapped, 0.1, 0.001) != "Worse" or found.upper < 0


@pytest.mark.parametrize(
    ("pairs", "answer"),
    [
        (Pairs(0, 0, 0), "Unclear"),
        (Pairs(0, 0, 10), "Unclear"),
        (Pairs(0, 0, 100), "NotWorse"),
        (Pairs(0, 60, 40), "NotWorse"),  # stable is the worse one
        (Pairs(30, 0, 0), "Worse"),
        (Pairs(100, 100, 800), "NotWorse"),  # both are worse at times, alike
        (Pairs(30, 10, 160), "Unclear"),
        (Pairs(300, 100, 600), "Worse"),
    ],
)
def test_answers(pairs: Pairs, answer: str) -> None:
    assert judge_pairs(pairs, 0.1) == answer


def first_answer(chance: random.Random, p: float, q: float, margin: float, most: int) -> str:
    """The first answer of looks after every 10 pairs."""
    numbers = [0, 0, 0]
    for number in range(1, most + 1):
        drawn = chance.random()
        numbers[0 if drawn < p else 1 if drawn < p + q else 2] += 1
        if number % 10 == 0 and (answer := judge_pairs(Pairs(*numbers), margin)) != "Unclear":
            return answer
    return "Unclear"


@pytest.mark.parametrize(("p", "q"), [(0.1, 0.0), (0.25, 0.15), (0.5, 0.4)])
def test_a_candidate_at_the_margin_seldom_gets_a_wrong_answer_of_either_kind(p: float, q: float) -> None:
    chance = random.Random(1)
    answers = [first_answer(chance, p, q, 0.1, 400) for _ in range(60)]
    assert answers.count("NotWorse") <= 5
    assert answers.count("Worse") <= 5


@pytest.mark.parametrize(("p", "q", "margin"), [(0.0, 0.0, 0.05), (0.02, 0.02, 0.1), (0.05, 0.05, 0.1)])
def test_an_equal_candidate_passes_soon(p: float, q: float, margin: float) -> None:
    chance = random.Random(2)
    assert [first_answer(chance, p, q, margin, 500) for _ in range(30)].count("NotWorse") >= 27


def test_one_that_is_worse_by_twice_the_margin_never_passes() -> None:
    chance = random.Random(3)
    answers = [first_answer(chance, 0.2, 0.0, 0.1, 500) for _ in range(30)]
    assert answers.count("NotWorse") == 0
    assert answers.count("Worse") >= 25
