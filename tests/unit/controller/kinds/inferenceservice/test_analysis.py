"""Two arms are compared: worse, not worse, or cannot say."""

import math
from typing import Any

import pytest

from driftloop.api.inferenceservice import Canary
from driftloop.controller.kinds.inferenceservice.analysis import analyse
from driftloop.controller.traffic import Arm, Arms
from driftloop.controller.vocabulary.conditions import timestamp
from unit.controller.kinds.inferenceservice.builders import NOW, ago, arm, took

CANARY = Canary(min_requests=50, min_seconds=30, max_seconds=600)
FINE = arm(1000, ratings=1000, negative=100)


def verdict(stable: Arm | None, candidate: Arm | None, seconds: float = 60, **canary: Any) -> str | None:
    arms = Arms(stable, candidate) if stable and candidate else None
    return analyse(CANARY.model_copy(update=canary), arms, ago(seconds), NOW).verdict


def message(stable: Arm, candidate: Arm) -> str:
    return str(analyse(CANARY, Arms(stable, candidate), ago(60), NOW).message)


def test_an_equal_candidate_is_promoted() -> None:
    assert verdict(FINE, FINE) == "Promote"


@pytest.mark.parametrize(
    "candidate",
    [
        arm(200, 20),  # one in ten fails, or gets 429
        arm(1000, refused=100),  # it refuses what stable takes
        arm(200, refused=200),
        arm(1000, p95=0.25, left=1000),  # it hangs, and every client goes before that is slow
        arm(1000, p95=0.31),  # half as slow again
        arm(1000, ratings=200, negative=100),  # users are unhappy
    ],
)
def test_a_worse_candidate_is_rolled_back(candidate: Arm) -> None:
    assert verdict(FINE, candidate) == "RollBack"


@pytest.mark.parametrize(
    "candidate",
    [
        arm(49),  # too few
        arm(0, p95=None),  # none
        arm(60),  # no failure, of too few to show that there are less than 1 %
        arm(1000, 12),  # failures above the margin, and within chance
        arm(1000, 8),  # and below it: a lucky look
        Arm(1000, 0, latency={0.25: 940, 1.0: 1000}),  # 6 % take long, within chance
        Arm(1000, 0, latency={0.25: 955, 1.0: 1000}),  # and 4.5 %: p95 is within the ratio by a lucky look
        arm(1000, p95=None),  # latency unknown
        arm(1000, ratings=25, negative=4),  # as happy as the others, of too few to tell
    ],
)
def test_what_cannot_be_said_goes_on_and_then_pauses(candidate: Arm) -> None:
    assert verdict(FINE, candidate, 60) == "Running"
    assert verdict(FINE, candidate, 600) == "Paused"


def test_two_arms_that_both_take_longer_than_is_measured_are_not_alike() -> None:
    endless = Arm(1000, 0, latency={60.0: 0.0, math.inf: 1000.0})
    assert verdict(endless, endless) == "Running"
    assert verdict(FINE, endless) == "RollBack"


def test_latency_is_compared_an_output_token_too() -> None:
    """A candidate that answers half as much in the same time is slower."""
    slow, quick = arm(1000, token_latency=took(0.04, 500)), arm(1000, token_latency=took(0.02, 500))
    assert verdict(quick, slow) == "RollBack"
    assert verdict(quick, quick) == "Promote"
    assert "p95 per output token: candidate 0.04" in message(quick, slow)
    assert verdict(quick, arm(1000, token_latency=took(0.04, 40))) == "Promote"  # answers are mostly short


def test_without_figures_it_waits_and_then_pauses() -> None:
    assert verdict(None, None, 60) == "Running"
    assert verdict(None, None, 600) == "Paused"


def test_a_pause_ends_when_the_figures_come() -> None:
    assert verdict(FINE, FINE, 5000) == "Promote"


def test_nothing_is_promoted_before_min_seconds_but_a_bad_one_goes_at_once() -> None:
    assert verdict(FINE, FINE, 10) == "Running"
    assert verdict(FINE, arm(200, 50), 10) == "RollBack"


def test_a_few_ratings_are_not_compared_and_at_a_margin_of_1_none() -> None:
    assert verdict(FINE, arm(1000, ratings=5, negative=5)) == "Promote"
    assert verdict(FINE, arm(1000, ratings=50, negative=50), max_negative_feedback_increase=1.0) == "Promote"


def test_a_candidate_is_not_blamed_for_what_stable_does_too() -> None:
    busy = arm(20_000, 4000, refused=2000, left=2000)
    assert verdict(busy, busy, max_error_rate_increase=0.05) == "Promote"


def test_the_figures_are_in_the_status_and_in_words() -> None:
    found = analyse(CANARY, Arms(FINE, arm(100, 50, 0.25)), ago(60), NOW)
    assert (found.stable_requests, found.candidate_requests) == (1000, 100)
    assert (found.candidate_error_rate, found.stable_negative_feedback) == ("0.5000", "0.1000")
    assert float(found.candidate_latency or 0) == pytest.approx(0.25, rel=0.01)
    assert found.message is not None
    assert found.message.startswith("candidate 50 of 100 failed, stable 0 of 1000: at 95 % at least 29.4 % more")
    assert message(FINE, FINE).startswith(
        "candidate 0 of 1000 failed, stable 0 of 1000: at 95 % at most 0.4 % more; margin 1.0 %; "
        "p95: candidate 0.2018 s, stable 0.2018 s: at 95 % at most"
    )


def test_the_words_say_about_how_many_more_requests_will_tell() -> None:
    assert "margin 1.0 %: about 350 more on the quieter arm are needed" in message(arm(60), arm(60))
    assert "too close to the margin to estimate" in message(arm(1000), arm(1000, 10))


def test_a_pause_says_when_it_was_looked_at() -> None:
    paused = analyse(CANARY, Arms(arm(10), arm(10)), ago(600), NOW)
    assert (paused.verdict, paused.looked) == ("Paused", timestamp(NOW))
    assert analyse(CANARY, Arms(arm(10), arm(10)), ago(60), NOW).looked is None
