"""One stage: only the result that belongs to it counts."""

import pytest

from driftloop.contract.result import PrepareResult, TrainResult
from driftloop.controller.kinds.stage import stage
from driftloop.controller.pods.outcome import Broken, Done, Lost, Running
from driftloop.controller.vocabulary.reasons import Reason
from unit.controller.stages import prepared

JOB = {"metadata": {"name": "tune-prepare"}}


def test_a_stage_has_its_own_result() -> None:
    assert stage(JOB, Done(prepared()), PrepareResult).result == prepared()


def test_the_result_of_another_stage_breaks_it() -> None:
    read = stage(JOB, Done(prepared()), TrainResult)
    assert read.outcome == Broken(Reason.INVALID_RESULT, "Job tune-prepare returned the result of another stage")
    assert read.result is None


@pytest.mark.parametrize("outcome", [Running("Running", ""), Broken("OOMKilled", ""), Lost()])
def test_whatever_else_became_of_it_is_kept(outcome: Running | Broken | Lost) -> None:
    read = stage(JOB, outcome, PrepareResult)
    assert read.outcome == outcome
    assert read.result is None
