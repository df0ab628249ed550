"""What the state of an object means for somebody who waits for it."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import FineTuneJobPhase
from driftloop.api.inferenceservice import ServicePhase
from driftloop.api.modelversion import ModelVersionPhase
from driftloop.cli.states import (
    Awaiting,
    Done,
    Going,
    Over,
    Rollback,
    State,
    Stuck,
    job_state,
    promotion_state,
    ready_state,
    rollbacks,
    version_state,
)

V1, V2 = "support-v1", "support-v2"
ROLLED_BACK = Rollback(V2, "r2", "CanaryWorse: 9 % failed", retried=False)


def condition(type_: str, reason: str, status: str = "True", message: str = "") -> dict[str, Any]:
    return {"type": type_, "status": status, "reason": reason, "message": message or f"message of {reason}"}


def thing(generation: int = 1, annotations: Any = None, spec: Any = None, **status: Any) -> dict[str, Any]:
    metadata = {"name": "a", "generation": generation, "annotations": annotations or {}}
    return {"metadata": metadata, "spec": spec or {}, "status": {"observedGeneration": 1} | status}


def service(stable: str | None = V1, candidate: str | None = None, **more: Any) -> dict[str, Any]:
    roles = {"stable": stable, "candidate": candidate}
    status = {role: {"revision": "r", "version": version} for role, version in roles.items() if version}
    return thing(**{"phase": "Serving"} | status | more)


# FineTuneJob


def test_a_job_is_done_with_its_version_and_over_when_it_failed() -> None:
    assert job_state(thing(phase="Succeeded", version=V1)) == Done("created the version support-v1")
    failed = [condition("Ready", "EmptyData", "False", "no rows"), condition("Stalled", "EmptyData")]
    assert job_state(thing(phase="Failed", conditions=failed)) == Over("no rows")


def test_a_training_shows_its_progress() -> None:
    progress = {"step": 1200, "totalSteps": 2400, "percent": 50, "eta": "3m", "loss": "1.25"}
    expected = Going("Training: step 1,200 of 2,400, loss 1.25", 50, "3m")
    assert job_state(thing(phase="Training", progress=progress)) == expected


def test_what_a_person_must_correct_is_stuck_but_not_over() -> None:
    stalled = [condition("Stalled", "ClaimNotFound", message="create the claim")]
    assert job_state(thing(phase="Pending", conditions=stalled)) == Stuck("ClaimNotFound: create the claim")


def test_a_status_of_an_older_spec_says_nothing() -> None:
    stalled = [condition("Stalled", "ClaimNotFound")]
    assert isinstance(job_state(thing(generation=2, phase="Pending", conditions=stalled)), Going)


def test_an_object_that_does_not_exist_may_still_come() -> None:
    states = (job_state(None), version_state(None, "judged"), ready_state(None), promotion_state(None, V1, []))
    assert all(isinstance(state, Going) for state in states)


# ModelVersion


@pytest.mark.parametrize(
    ("phase", "approved", "judged"),
    [
        ("Approved", Done, Done),
        ("Rejected", Over, Over),
        ("Failed", Over, Over),
        ("AwaitingApproval", Going, Awaiting),
        ("Evaluating", Going, Going),
    ],
)
def test_only_approval_is_good(phase: str, approved: type[State], judged: type[State]) -> None:
    version = thing(phase=phase, gateSummary="4 of 4 passed")
    assert isinstance(version_state(version, "approved"), approved)
    assert isinstance(version_state(version, "judged"), judged)


def test_a_rejection_has_the_gate_that_refused() -> None:
    conditions = [condition("Ready", "Rejected", "False", "retention: 12 of 80 items lost")]
    state = version_state(thing(phase="Rejected", gateSummary="3 of 4", conditions=conditions), "judged")
    assert state == Over("Rejected: retention: 12 of 80 items lost")


def test_a_version_that_is_evaluated_again_is_not_over() -> None:
    retry = {"driftloop.dev/retry": "2"}
    assert isinstance(version_state(thing(phase="Failed", annotations=retry), "judged"), Going)
    assert isinstance(version_state(thing(phase="Failed", annotations=retry, retried="2"), "judged"), Over)


# InferenceService


def test_a_service_is_ready_when_it_serves_its_spec() -> None:
    ready = condition("Ready", "Serving", message="v1 serves")
    assert ready_state(service(conditions=[ready])) == Done("v1 serves")
    assert isinstance(ready_state(service(conditions=[ready], generation=2)), Going)
    assert isinstance(ready_state(service(conditions=[ready, condition("Reconciling", "Analysing")])), Going)
    assert isinstance(ready_state(service(conditions=[ready, condition("Stalled", "RevisionFailed")])), Stuck)
    blocked = condition("Stalled", "RetrainingBlocked")
    assert isinstance(ready_state(service(conditions=[ready, blocked])), Done), "it serves all the same"


def test_a_version_is_promoted_when_it_is_stable() -> None:
    assert isinstance(promotion_state(service(V2), V2, []), Done)
    assert isinstance(promotion_state(service(V1, V2), V2, []), Going)
    assert isinstance(promotion_state(service(V1), V2, []), Going)
    assert isinstance(promotion_state(service(V2, V2), V2, []), Going), "a new revision of it is being tried"
    assert isinstance(promotion_state(service(V2, "support-v3"), V2, []), Done), "the next one is tried"


def test_a_rollback_before_the_wait_is_told_with_its_reason() -> None:
    state = promotion_state(service(V1, failedRevisions=["r2"]), V2, [ROLLED_BACK])
    assert state == Over("support-v2 was rolled back: CanaryWorse: 9 % failed")


def test_a_pinned_version_that_was_rolled_back_is_told_without_a_record() -> None:
    stalled = condition("Stalled", "RevisionFailed", message="revision r2 of support-v2 is not tried again: worse")
    pinned = service(V1, spec={"model": {"version": V2}}, conditions=[stalled])
    assert promotion_state(pinned, V2, []) == Over("revision r2 of support-v2 is not tried again: worse")
    other = service(V2, spec={"model": {"version": "support-v3"}}, conditions=[stalled])
    assert isinstance(promotion_state(other, V2, []), Done), "the failure is the other version's"


@pytest.mark.parametrize(
    ("state", "recorded"),
    [
        (service(V1, failedRevisions=["r9"]), ROLLED_BACK),  # a revision of an older spec
        (service(V1, failedRevisions=["r2"], annotations={"driftloop.dev/retry": "r2"}), ROLLED_BACK),  # asked again
        (service(V1, V2, failedRevisions=["r2"]), ROLLED_BACK),  # tried with another spec
        (
            service(V1, failedRevisions=["r2"], conditions=[condition("Ready", "CandidateStarting")]),
            ROLLED_BACK,  # being tried again: the status does not have the candidate yet
        ),
        (service(V1, failedRevisions=["r2"]), Rollback("support-v3", "r2", "worse", retried=False)),
    ],
)
def test_a_version_that_is_tried_again_or_was_not_rolled_back_is_waited_for(state: Any, recorded: Rollback) -> None:
    assert isinstance(promotion_state(state, V2, [recorded]), Going)


def test_a_retry_that_failed_again_is_over() -> None:
    again = service(V1, failedRevisions=["r2"], annotations={"driftloop.dev/retry": "r2"})
    assert isinstance(promotion_state(again, V2, [Rollback(V2, "r2", "worse", retried=True)]), Over)


def test_a_pin_of_another_version_is_named() -> None:
    state = promotion_state(service(V1, spec={"model": {"version": V1}}), V2, [])
    assert state == Going(f"{V1} serves; spec.model.version pins {V1}: waiting until it pins {V2} or nothing")


def test_the_canary_is_shown() -> None:
    analysing = condition("Ready", "Analysing", message="v2 beside v1: 40 more requests")
    state = promotion_state(service(V1, V2, traffic="67/33", conditions=[analysing]), V2, [])
    assert state == Going("v2 beside v1: 40 more requests; traffic 67/33")


def test_failed_deployments_are_the_records_of_rollbacks() -> None:
    def deployment(role: str, **annotations: str) -> dict[str, Any]:
        labels = {"driftloop.dev/role": role, "driftloop.dev/version": V2, "driftloop.dev/revision": "r2"}
        notes = {f"driftloop.dev/{name}": value for name, value in annotations.items()}
        return {"metadata": {"labels": labels, "annotations": notes}}

    found = rollbacks([deployment("stable"), deployment("failed", failed="CanaryWorse: bad", retried="true")])
    assert found == [Rollback(V2, "r2", "CanaryWorse: bad", retried=True)]


# All kinds


def test_values_of_another_release_do_not_count_as_good() -> None:
    for state in (
        job_state(thing(phase="Perfect")),
        version_state(thing(phase="Perfect"), "approved"),
        ready_state(thing(phase="Perfect")),
        promotion_state(thing(phase="Perfect"), V1, []),
    ):
        assert isinstance(state, Stuck)
        assert "phase" in state.message


@given(
    phase=st.sampled_from([None, *get_args(FineTuneJobPhase), *get_args(ModelVersionPhase), *get_args(ServicePhase)]),
    ready=st.sampled_from(["True", "False", "Unknown"]),
    observed=st.sampled_from([None, 0, 1]),
)
def test_nothing_is_done_without_the_phase_that_says_so(phase: str | None, ready: str, observed: int | None) -> None:
    conditions = [condition("Ready", "Any", ready)]
    status: dict[str, Any] = {"phase": phase} if phase else {}
    obj = thing(conditions=conditions, observedGeneration=observed, **status)
    assert isinstance(job_state(obj), Done) == (phase == "Succeeded")
    assert isinstance(version_state(obj, "judged"), Done) == (phase == "Approved")
    is_of_service = phase is None or phase in get_args(ServicePhase)
    assert isinstance(ready_state(obj), Done) == (ready == "True" and observed == 1 and is_of_service)
