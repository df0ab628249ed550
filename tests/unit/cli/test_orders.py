"""What to write for a person's command about a rollout, and what became of it."""

from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.inferenceservice import InferenceServiceStatus
from driftloop.api.modelversion import ModelVersion
from driftloop.cli.orders import (
    Aim,
    order,
    order_state,
    order_value,
    pin,
    previous_version,
    return_state,
    target,
)
from driftloop.cli.states import Done, Going, Over, Stuck
from driftloop.controller.kinds.inferenceservice.command import MAX_VALUE, Action, Command, parse

V1, V2 = "support-v1", "support-v2"
VALUE = "pause r2 at 2026-01-02T03:04:05Z by ada"


def role(version: str, revision: str) -> dict[str, str]:
    return {"version": version, "revision": revision}


def service(annotation: str | None = VALUE, generation: int = 1, **status: Any) -> dict[str, Any]:
    notes = {} if annotation is None else {"driftloop.dev/rollout": annotation}
    metadata = {"name": "desk", "namespace": "team", "uid": "u-1", "generation": generation, "annotations": notes}
    known = {"observedGeneration": 1, "phase": "Canary", "stable": role(V1, "r1"), "candidate": role(V2, "r2")}
    return {"metadata": metadata, "spec": {}, "status": known | status}


def status(**changes: Any) -> InferenceServiceStatus:
    return InferenceServiceStatus.model_validate(service(**changes)["status"])


def taken(obeyed: bool, value: str = VALUE) -> dict[str, Any]:
    return {"value": value, "time": "2026-01-02T03:04:06Z", "obeyed": obeyed, "message": "so it is"}


# what to write

WHO = st.none() | st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=200)


@given(
    st.sampled_from(get_args(Action)),
    st.from_regex("[a-z0-9]{1,63}", fullmatch=True),
    st.datetimes(datetime(2000, 1, 1)),
    WHO,
)
def test_the_operator_understands_every_order(action: Action, revision: str, now: datetime, who: str | None) -> None:
    value = order_value(action, revision, now.replace(tzinfo=UTC), who)
    assert parse(value) == Command(action, revision, who if who and len(who) <= 128 else None)
    assert len(value) <= MAX_VALUE


def test_a_later_order_is_another_one() -> None:
    first, second = (order_value("pause", "r2", datetime(2026, 1, 1, 0, 0, n, tzinfo=UTC), "ada") for n in (1, 2))
    assert first != second


def test_nothing_but_the_annotation_or_the_pin_is_written_and_only_to_the_service_that_was_seen() -> None:
    metadata = {"name": "desk", "namespace": "team", "uid": "u-1"}
    kind = {"apiVersion": "driftloop.dev/v1alpha1", "kind": "InferenceService"}
    noted = metadata | {"annotations": {"driftloop.dev/rollout": VALUE}}
    assert order(service(), VALUE) == kind | {"metadata": noted}
    assert pin(service(), V1) == kind | {"metadata": metadata, "spec": {"model": {"version": V1}}}


# the target


@pytest.mark.parametrize("aim", [Aim(), Aim("r2"), Aim(None, V2), Aim("r2", V2)])
def test_the_candidate_that_the_person_saw_is_the_target(aim: Aim) -> None:
    assert target(status(), aim) == status().candidate


@pytest.mark.parametrize(
    ("aim", "meant"), [(Aim("r1"), "revision r1"), (Aim(None, V1), V1), (Aim("r2", V1), f"revision r2 of {V1}")]
)
def test_another_candidate_is_no_target(aim: Aim, meant: str) -> None:
    assert target(status(), aim) == Over(f"the candidate is revision r2 of {V2}, not {meant}")


def test_without_a_candidate_there_is_no_target() -> None:
    found = target(status(candidate=None), Aim())
    assert found == Over(f"there is no candidate, so there is nothing to decide: {V1} serves")


# what became of it


@pytest.mark.parametrize(("obeyed", "expected"), [(True, Done("so it is")), (False, Over("ignored: so it is"))])
def test_the_operator_says_what_became_of_an_order(obeyed: bool, expected: Any) -> None:
    assert order_state(service(command=taken(obeyed)), VALUE) == expected


def test_what_became_of_an_earlier_order_says_nothing() -> None:
    assert isinstance(order_state(service(command=taken(True, "pause r2 by ada")), VALUE), Going)
    assert isinstance(order_state(service(), VALUE), Going)


def test_an_order_that_another_one_replaced_is_told() -> None:
    found = order_state(service("abort r2 by bob"), VALUE)
    assert isinstance(found, Over)
    assert "was changed to 'abort r2 by bob' meanwhile" in found.message


# rollback to an earlier version


def version(baseline: Any = None, parent: str | None = None) -> ModelVersion:
    artefact = {"uri": "pvc://a/b", "digest": "sha256:" + "0" * 64}
    spec = {"family": "support", "artefact": artefact, "lineage": {"parent": parent}}
    status = {"baseline": baseline} if baseline else {}
    return ModelVersion.model_validate({"metadata": {"name": V2}, "spec": spec, "status": status})


def test_the_version_before_is_the_one_it_was_compared_with_else_its_parent() -> None:
    baseline = {"version": V1, "digest": "sha256:" + "1" * 64, "service": "desk"}
    assert previous_version(version(baseline, "support-v0"), "desk") == V1
    assert previous_version(version(baseline, "support-v0"), "other") == "support-v0"
    assert previous_version(version(), "desk") is None


def test_a_return_is_taken_once_the_version_is_candidate_or_serves() -> None:
    assert isinstance(return_state(service(generation=2), V2), Going), "the status is about the spec before the pin"
    assert isinstance(return_state(service(), V2), Done)
    assert return_state(service(candidate=None), V1) == Done(f"{V1} is pinned and serves")
    assert isinstance(return_state(service(), "support-v0"), Going)


def test_a_return_that_needs_a_person_is_stuck() -> None:
    stalled = {"type": "Stalled", "status": "True", "reason": "NotAccepted", "message": "too old"}
    assert return_state(service(conditions=[stalled]), "support-v0") == Stuck("NotAccepted: too old")
