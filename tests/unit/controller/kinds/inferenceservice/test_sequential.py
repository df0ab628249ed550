"""Bounds that hold at every look. bench/canary_decisions.py has the whole table."""

import math
import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.kinds.inferenceservice.sequential import Tally, bounds, judge, needed

MARGIN = 0.01
TALLY = st.integers(1, 2000).flatmap(lambda total: st.builds(Tally, st.integers(0, total), st.just(total)))


def verdict(seed: int, stable: float, candidate: float, most: int, share: float = 0.5) -> str:
    """Looks all ten requests of the quieter arm, from the fiftieth on; Unclear after `most`."""
    rng = random.Random(seed)
    ratio = max(1, round((1 - share) / share))
    failed = {
        arm: list(accumulate(rng.random() < rate for _ in range(most * times)))
        for arm, rate, times in (("stable", stable, ratio), ("candidate", candidate, 1))
    }
    for n in range(50, most + 1, 10):
        found = judge(Tally(failed["stable"][n * ratio - 1], n * ratio), Tally(failed["candidate"][n - 1], n), MARGIN)
        if found != "Unclear":
            return found
    return "Unclear"


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize(("stable", "candidate"), [(0.0, 0.02), (0.0, 0.011), (0.005, 0.05)])
def test_a_worse_candidate_is_hardly_ever_promoted_however_often_one_looks(
    stable: float, candidate: float, share: float
) -> None:
    """2 % against 0 %: 57 % were, by the first look at which the shares were within the margin."""
    found = [verdict(seed, stable, candidate, 1000, share) for seed in range(60)]
    assert found.count("NotWorse") <= 0.05 * len(found)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_candidate_that_never_fails_is_promoted_within_ten_times_the_least_requests(share: float) -> None:
    assert verdict(0, 0.0, 0.0, 500, share) == "NotWorse"


def test_a_good_candidate_is_hardly_ever_rolled_back() -> None:
    found = [verdict(seed, 0.02, 0.02, 1000) for seed in range(60)]
    assert found.count("Worse") <= 0.05 * len(found)


@pytest.mark.parametrize(
    ("stable", "candidate"),
    [(Tally(0, 60), Tally(30, 30)), (Tally(0, 60), Tally(15, 60)), (Tally(50, 500), Tally(150, 500))],
)
def test_a_broken_candidate_is_seen_at_once(stable: Tally, candidate: Tally) -> None:
    assert judge(stable, candidate, MARGIN) == "Worse"


@given(TALLY, TALLY, st.floats(0, 0.5))
def test_the_verdict_is_that_of_the_bounds(stable: Tally, candidate: Tally, margin: float) -> None:
    found = bounds(stable, candidate, margin)
    difference = candidate.bad / candidate.total - stable.bad / stable.total
    assert found.lower <= difference <= found.upper
    near = math.isclose(found.upper, margin, abs_tol=1e-6) or math.isclose(found.lower, margin, abs_tol=1e-6)
    if not near:
        sides = {"NotWorse": found.upper < margin, "Worse": found.lower > margin}
        assert judge(stable, candidate, margin) == next((side for side, true in sides.items() if true), "Unclear")


def test_without_requests_on_both_arms_nothing_is_said() -> None:
    assert judge(Tally(0, 0), Tally(0, 5000), MARGIN) == "Unclear"
    assert judge(Tally(0, 5000), Tally(0, 0), MARGIN) == "Unclear"
    assert needed(Tally(0, 0), Tally(0, 10), MARGIN) is None


def test_how_many_more_are_needed_comes_true() -> None:
    for counted in (50, 100, 200, 300):
        missing = needed(Tally(0, counted), Tally(0, counted), MARGIN)
        assert missing is not None
        assert judge(Tally(0, counted + missing), Tally(0, counted + missing), MARGIN) == "NotWorse"
        assert missing <= 500 - counted
    assert needed(Tally(0, 1000), Tally(10, 1000), MARGIN) is None  # at the margin itself
