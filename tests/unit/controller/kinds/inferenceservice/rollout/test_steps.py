"""Steps of a candidate's weight: which one it is in, and how many pods it gets."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.inferenceservice import Canary
from driftloop.controller.kinds.inferenceservice.analysis import WHOLE, analyse
from driftloop.controller.kinds.inferenceservice.rollout.steps import (
    limits_of,
    next_weight,
    part_of,
    pods_for,
    steps_of,
    weight_in_effect,
)
from driftloop.controller.traffic import Arms
from parts import examples
from unit.controller.kinds.inferenceservice.builders import NOW, ago, arm, revision, service, version

V2 = version("v2")
CANDIDATE = replace(revision(service(), V2, "candidate", 1), hidden=True, weight=10, analysis_started=ago(60))


def canary(*weights: int, **fields: Any) -> Canary:
    return Canary.model_validate({"steps": [{"weight": weight, "minRequests": 20} for weight in weights], **fields})


def test_without_steps_the_weights_are_1_10_and_50_percent() -> None:
    assert [(step.weight, step.min_seconds) for step in steps_of(Canary())] == [(1, 60), (10, 60), (50, 60)]


def test_each_step_has_its_own_limits_and_the_last_one_those_of_the_canary() -> None:
    spec = canary(1, 10, min_requests=80, min_seconds=5)
    first, last = (part_of(spec, replace(CANDIDATE, weight=weight)) for weight in (1, 10))
    assert [(part.number, part.of, part.is_last) for part in (first, last)] == [(1, 2, False), (2, 2, True)]
    assert [limits_of(spec, part).min_requests for part in (first, last)] == [20, 80]
    assert [limits_of(spec, part).min_seconds for part in (first, last)] == [60, 5]


def test_steps_that_are_changed_in_a_rollout_go_on_above_the_weight_that_is_reached() -> None:
    assert next_weight(canary(5, 20, 40), 10) == 20
    assert part_of(canary(20, 40), CANDIDATE).number == 1
    assert part_of(canary(2, 5), CANDIDATE).is_last
    assert next_weight(canary(2, 5), 10) is None


def test_a_candidate_by_its_number_of_pods_is_judged_in_one_part() -> None:
    assert part_of(Canary(), replace(CANDIDATE, weight=None)) == WHOLE


@examples(200)
@given(replicas=st.integers(1, 100), weight=st.integers(1, 99))
def test_a_pod_of_the_candidate_is_never_busier_than_one_of_stable(replicas: int, weight: int) -> None:
    pods = pods_for(replicas, weight)
    assert 1 <= pods <= replicas
    if pods < replicas:
        assert weight / pods <= (100 - weight) / replicas


@pytest.mark.parametrize(
    "without",
    [{"analysis_started": None}, {"available": 0}, {"promoted": NOW}, {"weight": None}],
)
def test_only_a_ready_candidate_whose_step_has_begun_gets_its_weight(without: dict[str, Any]) -> None:
    assert weight_in_effect(CANDIDATE) == 10
    assert weight_in_effect(replace(CANDIDATE, **without)) == 0
    assert weight_in_effect(None) == 0


# --- the verdict of a step ---

FIRST = part_of(canary(1, 10), replace(CANDIDATE, weight=1))
FEW = Arms(arm(2000), arm(25))  # too few to show that the candidate is not worse
LIMITS = canary(1, 10, min_requests=80)


def verdict(arms: Arms | None, weight: int, age: float = 90) -> str | None:
    part = part_of(LIMITS, replace(CANDIDATE, weight=weight))
    return analyse(limits_of(LIMITS, part), arms, ago(age), NOW, part).verdict


def test_a_step_ends_when_nothing_is_shown_to_be_worse_and_its_pause_is_over() -> None:
    assert verdict(FEW, 1) == "NextStep"
    assert verdict(FEW, 1, age=30) == "Running"


def test_a_step_does_not_end_without_its_own_requests_or_without_figures() -> None:
    assert verdict(Arms(arm(2000), arm(19)), 1) == "Running"
    assert verdict(None, 1) == "Running"
    assert verdict(Arms(arm(2000), arm(0)), 1, age=4000) == "Paused"


def test_only_the_last_step_promotes_and_it_needs_the_whole_comparison() -> None:
    good = Arms(arm(4000), arm(2000))
    assert [verdict(good, weight) for weight in (1, 10)] == ["NextStep", "Promote"]
    assert verdict(Arms(arm(2000), arm(100)), 10) == "Running"


def test_every_step_rolls_back_what_is_worse() -> None:
    assert [verdict(Arms(arm(2000), arm(30, 25)), 1), verdict(Arms(arm(2000), arm(100, 60)), 10)] == ["RollBack"] * 2


def test_the_probability_of_a_wrong_rollback_is_divided_among_the_steps() -> None:
    assert FIRST.alarm == pytest.approx(0.025)
    assert WHOLE.alarm == 0.05
