import math

import numpy as np
import pytest

from driftloop_trainer.evaluate.judge.verdicts import EQUAL, Pair, reliability, result, trusted


def names(pairs: list[Pair]) -> list[str]:
    return [str(n) for n in range(len(pairs))]


def judged(rng: np.random.Generator, items: int, loss: float, flips: float, decided: float = 0.6) -> list[Pair]:
    """Verdicts on versions of which the candidate is better on (decided - loss) / 2 and worse on the rest of decided.

    The judge turns each verdict around with the probability `flips`.
    """
    u = rng.random(items)
    truth = np.where(u > decided, 0, np.where(u < (decided - loss) / 2, 1, -1))
    orders = [truth * np.where(rng.random(items) < flips, -1, 1) for _ in range(2)]
    return [Pair(int(first), int(second)) for first, second in zip(*orders, strict=True)]


@pytest.mark.parametrize(
    ("verdict", "position", "expected"),
    [("A", "A", 1), ("B", "A", -1), ("B", "B", 1), ("tie", "A", 0), (None, "A", -1), (None, "B", -1)],
)
def test_without_a_verdict_the_candidate_has_lost(verdict: object, position: object, expected: int) -> None:
    assert result(verdict, position) == expected  # type: ignore[arg-type]


def test_a_judge_that_prefers_a_position_shows_nothing() -> None:
    pairs = [Pair(1, -1) for _ in range(300)]
    found = trusted(pairs, names(pairs))
    assert (found.reliability, found.lower, found.upper, found.error) == (0.0, -1.0, 1.0, 1.0)


def test_a_judge_that_sees_no_difference_anywhere_shows_nothing() -> None:
    pairs = [Pair(0, 0) for _ in range(300)]
    assert trusted(pairs, names(pairs)).lower == -1.0


def test_equal_answers_need_no_judge() -> None:
    pairs = [EQUAL] * 300
    found = trusted(pairs, names(pairs))
    assert found.reliability == 1.0
    assert found.lower == pytest.approx(-(1 - 0.05 ** (1 / 300)), abs=2e-5)


def test_a_few_different_answers_lose_no_more_than_themselves_whatever_the_judge_says() -> None:
    pairs = [EQUAL] * 497 + [Pair(1, -1)] * 3
    found = trusted(pairs, names(pairs))
    assert found.reliability < 0.5
    assert -0.02 < found.lower < -3 / 500
    assert found.upper < 0.02


def test_the_reliability_is_that_of_the_flips() -> None:
    pairs = judged(np.random.default_rng(1), 4000, 0.0, flips=0.1)
    assert math.sqrt(reliability(pairs, names(pairs))) == pytest.approx(1 - 2 * 0.1, abs=0.05)


def test_a_steady_judge_of_many_items_is_believed() -> None:
    pairs = judged(np.random.default_rng(1), 4000, 0.0, flips=0.0)
    assert trusted(pairs, names(pairs)).reliability > 0.98


@pytest.mark.parametrize("flips", [0.0, 0.1, 0.3, 0.5])
def test_a_true_loss_is_missed_in_at_most_one_of_twenty_however_unsteady_the_judge(flips: float) -> None:
    """Without the division, a judge that decided by chance let a loss of 0.2 pass in nearly all samples."""
    rng, missed, samples = np.random.default_rng(6), 0, 60
    for _ in range(samples):
        pairs = judged(rng, 200, 0.2, flips)
        missed += trusted(pairs, names(pairs)).lower > -0.2
    assert missed / samples <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / samples)
