"""Answers are compared by their first token, their lengths and their endings."""

import math
from dataclasses import replace
from typing import Any

import pytest

from driftloop.api.inferenceservice import Canary
from driftloop.controller.kinds.inferenceservice.analysis import analyse
from driftloop.controller.kinds.inferenceservice.answers import TESTS, limits
from driftloop.controller.kinds.inferenceservice.sequential import ERROR
from driftloop.controller.traffic import Answers, Arms, Buckets
from unit.controller.kinds.inferenceservice.builders import NOW, ago, arm, took

CANARY = Canary(min_requests=50, min_seconds=30, max_seconds=600)
BOUNDS = (*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)


def lengths(**numbers: int) -> Buckets:
    """Buckets of answers: `_80=900` are 900 answers of 80 tokens."""
    tokens = {int(name[1:]): number for name, number in numbers.items()}
    counted = {float(bound): float(sum(n for t, n in tokens.items() if t <= bound)) for bound in BOUNDS}
    return counted | {math.inf: float(sum(tokens.values()))}


def answers(number: int = 1000, first_token: float = 0.2, tokens: Buckets | None = None, **endings: int) -> Answers:
    ends = {"complete": float(number - sum(endings.values()))} | {name: float(n) for name, n in endings.items()}
    return Answers(ends, lengths(_80=number) if tokens is None else tokens, took(first_token, number))


def analysis(stable: Answers | None, candidate: Answers | None, seconds: float = 60, **canary: Any) -> Any:
    arms = Arms(replace(arm(1000), answers=stable), replace(arm(1000), answers=candidate))
    return analyse(CANARY.model_copy(update=canary), arms, ago(seconds), NOW)


FINE = answers(cut=50, empty=5, refused=5)
WORSE = [
    (answers(first_token=0.4), "p95 until the first token", "max_first_token_increase"),
    (answers(tokens=lengths(_80=500, _160=500)), "longer than 128 tokens", "max_length_change"),
    (answers(tokens=lengths(_80=500, _10=500)), "of at most 40 tokens", "max_length_change"),
    (answers(cut=400), "cut off at their limit of tokens", "max_cut_off_increase"),
    (answers(empty=200), "empty", "max_empty_increase"),
    (answers(refused=200), "refused by the model", "max_model_refusal_increase"),
]


def test_equal_answers_are_promoted_and_each_measure_is_shown() -> None:
    found = analysis(FINE, FINE)
    assert found.verdict == "Promote"
    shown = {measure.name: measure for measure in found.measures}
    assert {name for _, name, _ in WORSE} <= set(shown)
    assert shown["empty"].verdict == "not worse"
    assert shown["empty"].margin == "5.0 %"
    assert shown["empty"].interval == "-1.6 % to 1.3 %"
    assert {"failed", "refused", "given up by clients", "p95"} <= set(shown)


@pytest.mark.parametrize(("candidate", "measure", "margin"), WORSE)
def test_a_worse_measure_rolls_back_and_is_named_unless_switched_off(
    candidate: Answers, measure: str, margin: str
) -> None:
    found = analysis(FINE, candidate)
    assert found.verdict == "RollBack"
    assert measure in found.message
    assert f"at {100 * (1 - ERROR / TESTS):.3g} % at least" in found.message
    assert [m.name for m in found.measures if m.verdict == "worse"] == [measure]
    assert analysis(FINE, candidate, **{margin: 1.0}).verdict == "Promote"


def test_too_few_answers_are_never_good() -> None:
    assert analysis(FINE, answers(40)).verdict == "Running"
    assert analysis(FINE, answers(40), seconds=600).verdict == "Paused"
    assert "empty: 40 of 50 complete answers on the quieter arm" in analysis(FINE, answers(40)).message


def test_without_streams_the_first_token_is_not_compared() -> None:
    found = analysis(replace(FINE, first_token={}), replace(FINE, first_token={}))
    assert found.verdict == "Promote"
    (first,) = [measure for measure in found.measures if measure.verdict == "not compared"]
    assert first.message == "p95 until the first token: 0 of 50 streams on the quieter arm"


def test_pods_of_an_earlier_release_block_nothing_but_a_candidate_that_does_not_count_is_not_good() -> None:
    assert analysis(None, None).verdict == "Promote"
    old = analysis(None, FINE)
    assert old.verdict == "Promote"
    assert "an earlier release created them" in old.measures[-1].message
    assert analysis(FINE, None).verdict == "Running"


def test_a_token_more_is_not_a_change_of_length() -> None:
    assert analysis(answers(tokens=lengths(_3=1000)), answers(tokens=lengths(_4=1000))).verdict == "Promote"
    assert analysis(answers(tokens=lengths(_3=1000)), answers(tokens=lengths(_6=1000))).verdict == "RollBack"


def test_the_limits_of_long_and_short_answers_are_bounds_of_buckets() -> None:
    assert limits(lengths(_80=10)) == (40.0, 128.0)
    assert limits(lengths(_1=10)) == (0.0, 2.0)
    assert limits({math.inf: 5.0}) == (0.0, math.inf)
