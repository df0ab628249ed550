"""Two arms are compared: worse, not worse, or cannot say."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.inferenceservice import Canary
from driftloop.controller.inferenceservice.analysis import analyse, compare_share
from driftloop.controller.inferenceservice.observed import Arm, Arms
from unit.controller.inferenceservice.builders import NOW, ago

CANARY = Canary(min_requests=50, min_seconds=30, max_seconds=600)
FINE = Arm(200, 0, 0.2, 50, 5)


def verdict(stable: Arm | None, candidate: Arm | None, seconds: float = 60, **canary: Any) -> str | None:
    arms = Arms(stable, candidate) if stable and candidate else None
    return analyse(CANARY.model_copy(update=canary), arms, ago(seconds), NOW).verdict


def test_an_equal_candidate_is_promoted() -> None:
    assert verdict(FINE, FINE) == "Promote"


@pytest.mark.parametrize(
    "candidate",
    [
        Arm(200, 20, 0.2),  # one in ten fails
        Arm(200, 0, 0.31),  # half as slow again, on enough requests to be sure of it
        Arm(200, 0, 0.2, 50, 30),  # users are unhappy
    ],
)
def test_a_worse_candidate_is_rolled_back(candidate: Arm) -> None:
    assert verdict(FINE, candidate) == "RollBack"


@pytest.mark.parametrize(
    "candidate",
    [
        Arm(49, 0, 0.2),  # too few
        Arm(0, 0, None),  # none
        Arm(60, 1, 0.2),  # a single failure: above the margin, and within chance
        Arm(60, 0, 0.9),  # slow, on too few to be sure
        Arm(200, 0, None),  # latency unknown
        Arm(200, 0, math.nan),
        Arm(200, 0, math.inf),
        Arm(60, 0, 0.2, 25, 8),  # some unhappy: within chance
    ],
)
def test_what_cannot_be_said_goes_on_and_then_pauses(candidate: Arm) -> None:
    assert verdict(FINE, candidate, 60) == "Running"
    assert verdict(FINE, candidate, 600) == "Paused"


def test_without_figures_it_waits_and_then_pauses() -> None:
    assert verdict(None, None, 60) == "Running"
    assert verdict(None, None, 600) == "Paused"


def test_a_pause_ends_when_the_figures_come() -> None:
    assert verdict(FINE, FINE, 5000) == "Promote"


def test_nothing_is_promoted_before_min_seconds_but_a_bad_one_goes_at_once() -> None:
    assert verdict(FINE, FINE, 10) == "Running"
    assert verdict(FINE, Arm(200, 50, 0.2), 10) == "RollBack"


def test_a_few_ratings_are_not_compared() -> None:
    assert verdict(FINE, Arm(200, 0, 0.2, 5, 5)) == "Promote"


def test_a_candidate_is_not_blamed_for_errors_that_stable_has_too() -> None:
    assert verdict(Arm(200, 40, 0.2), Arm(200, 40, 0.2)) == "Promote"


def test_the_figures_are_in_the_status() -> None:
    found = analyse(CANARY, Arms(FINE, Arm(100, 50, 0.25)), ago(60), NOW)
    assert (found.stable_requests, found.candidate_requests) == (200, 100)
    assert (found.candidate_error_rate, found.candidate_latency, found.stable_negative_feedback) == (
        "0.5000",
        "0.250",
        "0.1000",
    )
    assert "errors 50.0%" in str(found.message)


SHARE = st.integers(0, 500).flatmap(lambda bad: st.tuples(st.just(bad), st.integers(max(bad, 1), 1000)))


@given(SHARE, SHARE, st.floats(0, 0.5))
def test_a_share_that_is_not_above_stables_is_never_worse(
    stable: tuple[int, int], candidate: tuple[int, int], margin: float
) -> None:
    answer = compare_share(stable, candidate, margin)
    if candidate[0] / candidate[1] <= stable[0] / stable[1]:
        assert answer == "NotWorse"
    if answer == "NotWorse":
        assert candidate[0] / candidate[1] <= stable[0] / stable[1] + margin


def test_more_requests_of_the_same_kind_settle_what_was_unclear() -> None:
    assert compare_share((0, 50), (1, 50), 0.01) == "Unclear"
    assert compare_share((0, 5000), (200, 5000), 0.01) == "Worse"
