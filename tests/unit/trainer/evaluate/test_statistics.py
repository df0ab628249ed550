import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.evaluate.meanbounds import clustered_error
from driftloop_trainer.evaluate.statistics import Judged, suite_result

values = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=200)


@given(values)
def test_without_clusters_it_is_the_usual_standard_error(found: list[float]) -> None:
    mean = sum(found) / len(found)
    usual = math.sqrt(sum((v - mean) ** 2 for v in found) / (len(found) - 1) / len(found))
    assert clustered_error(found, [str(i) for i in range(len(found))]) == pytest.approx(usual, abs=1e-12)


@given(values, st.integers(2, 5))
def test_copies_of_items_add_no_certainty(found: list[float], copies: int) -> None:
    clusters = [str(i) for i in range(len(found))]
    assert clustered_error(found * copies, clusters * copies) == pytest.approx(clustered_error(found, clusters))


def test_the_error_is_that_of_repeated_samples_of_clusters() -> None:
    rng = random.Random(7)

    def sample() -> tuple[list[float], list[str]]:
        rates = [rng.betavariate(2, 1) for _ in range(40)]
        return [float(rng.random() < p) for p in rates for _ in range(20)], [
            str(c) for c in range(40) for _ in range(20)
        ]

    draws = [sample() for _ in range(400)]
    means = [sum(v) / len(v) for v, _ in draws]
    centre = sum(means) / len(means)
    spread = math.sqrt(sum((m - centre) ** 2 for m in means) / (len(means) - 1))
    estimated = sum(clustered_error(*draw) for draw in draws) / len(draws)
    assert estimated == pytest.approx(spread, rel=0.15)


def test_one_cluster_says_nothing() -> None:
    assert clustered_error([1.0, 1.0, 0.0], ["a", "a", "a"]) == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=100))
def test_counts_of_pairs_agree(pairs: list[tuple[bool, bool]]) -> None:
    result = suite_result("s", [Judged(str(i), a, b) for i, (a, b) in enumerate(pairs)])
    assert result.baseline_correct is not None
    assert result.gained is not None
    assert result.lost is not None
    assert result.correct - result.baseline_correct == result.gained - result.lost
    assert (result.items, result.clusters) == (len(pairs), len(pairs))


def test_without_a_baseline_nothing_is_paired() -> None:
    result = suite_result("s", [Judged("a", True), Judged("b", False, answered=False)])
    assert (result.correct, result.errors) == (1, 1)
    assert result.baseline_correct is None
    assert result.difference_standard_error is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_scores_between_0_and_1_have_bounds_of_their_difference(pairs: list[tuple[float, float]]) -> None:
    result = suite_result("s", [Judged(str(i), a, b) for i, (a, b) in enumerate(pairs)], is_graded=True)
    assert result.baseline_correct is not None
    assert result.lower is not None
    assert result.upper is not None
    difference = result.correct - result.baseline_correct
    assert difference == pytest.approx(sum(a - b for a, b in pairs), abs=1e-3)
    assert result.lower - 1e-4 <= difference / len(pairs) <= result.upper + 1e-4


def test_without_a_baseline_the_bounds_are_those_of_the_mean_score() -> None:
    result = suite_result("s", [Judged(str(i), 0.5) for i in range(100)], is_graded=True)
    assert (result.correct, result.baseline_correct) == (50, None)
    assert 0.48 < (result.lower or 0) < 0.5 < (result.upper or 0) < 0.52


def test_scores_of_0_and_1_are_counted_and_get_no_bounds() -> None:
    result = suite_result("s", [Judged("a", 1.0, 0.0), Judged("b", 0.0, 0.0)])
    assert '"correct":1,' in result.model_dump_json(by_alias=True)
    assert (result.lower, result.upper) == (None, None)


def test_a_later_look_has_wider_bounds_and_says_so() -> None:
    judged = [Judged(str(i), (i % 7) / 7, (i % 5) / 5) for i in range(200)]
    first, second = (suite_result("s", judged, is_graded=True, look=look) for look in (1, 2))
    assert (first.look, second.look) == (None, 2)
    assert (second.lower or 0) < (first.lower or 0) < (first.upper or 0) < (second.upper or 0)
