from datetime import UTC, datetime

import pytest

from driftloop.api.modelversion import ModelVersionStatus
from driftloop.controller.kinds.step import Step, to_plan
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.plan import Create, Delete, Obj, independent

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VERSION: Obj = {"metadata": {"generation": 3}}
CLEAN_UP = Delete("v1", "Pod", "ns", "old", "uid")
FURTHER = Create({"kind": "Job"})


def step(requeue_after: float | None = None) -> Step[str]:
    found = conditions.progressing("Evaluating", "asking")
    return Step("Evaluating", found, (FURTHER,), requeue_after, {"services": ["desk"]})


def test_what_is_to_be_cleaned_up_stands_beside_what_brings_it_further() -> None:
    plan = to_plan(step(), VERSION, ModelVersionStatus(), NOW, (CLEAN_UP,), None)
    assert (plan.actions, plan.beside) == ((FURTHER,), independent((CLEAN_UP,)))


@pytest.mark.parametrize(
    ("own", "wait", "expected"), [(None, None, None), (5, None, 5), (None, 7, 7), (5, 7, 5), (9, 7, 7)]
)
def test_the_next_look_comes_at_the_shorter_wait(own: float | None, wait: float | None, expected: float | None) -> None:
    assert to_plan(step(own), VERSION, ModelVersionStatus(), NOW, (), wait).requeue_after == expected


def test_the_status_has_phase_generation_changes_and_what_it_had() -> None:
    before = ModelVersionStatus(gate_summary="1 of 1 passed")
    status = to_plan(step(), VERSION, before, NOW, (), None).status
    assert status is not None
    kept = {key: status[key] for key in ("phase", "observedGeneration", "services", "gateSummary")}
    assert kept == {
        "phase": "Evaluating",
        "observedGeneration": 3,
        "services": ["desk"],
        "gateSummary": "1 of 1 passed",
    }


def test_an_event_tells_of_a_transition_once() -> None:
    first = to_plan(step(), VERSION, ModelVersionStatus(), NOW, (), None)
    assert first.status is not None
    again = to_plan(step(), VERSION, ModelVersionStatus.model_validate(first.status), NOW, (), None)
    assert [event.reason for event in first.events] == ["Evaluating"]
    assert again.events == ()
