"""Which revision should serve."""

from dataclasses import replace
from typing import Any

import pytest

from driftloop.api.acceptance import Acceptance
from driftloop.api.inferenceservice import InferenceServiceStatus
from driftloop.api.modelversion import Gate, ModelShape, ModelVersionPhase
from driftloop.controller.kinds.inferenceservice.observed import Observed, Version
from driftloop.controller.kinds.inferenceservice.revision import revision_of
from driftloop.controller.kinds.inferenceservice.selection import choose, lacks
from driftloop.controller.kinds.inferenceservice.situation import situation_of
from driftloop.controller.vocabulary.labels import RETRY
from driftloop.controller.vocabulary.plan import Obj
from unit.controller.kinds.inferenceservice.builders import NOW, SETTINGS, digest, revision, service, version


def test_the_last_approved_version_is_chosen() -> None:
    observed = service(versions=(version("v1", 300), version("v2", 200), version("v3", 100, "Rejected")))
    assert choose(situation_of(observed, SETTINGS, NOW)).version == observed.version("v2")


@pytest.mark.parametrize("phase", [None, "Pending", "Evaluating", "AwaitingApproval", "Rejected", "Failed"])
def test_a_version_that_is_not_approved_is_never_chosen(phase: ModelVersionPhase | None) -> None:
    choice = choose(situation_of(service(versions=(version("v1", phase=phase),)), SETTINGS, NOW))
    assert choice.revision is None
    assert choice.reason == "NoApprovedVersion"


def test_a_version_that_awaits_approval_is_named_with_the_command_that_gives_it() -> None:
    choice = choose(situation_of(service(versions=(version("v1", phase="AwaitingApproval"),)), SETTINGS, NOW))
    assert "kubectl annotate mver v1 driftloop.dev/approve=v1" in choice.message


def test_what_serves_goes_on_serving_though_its_judgement_was_lost() -> None:
    v1 = version("v1", phase="AwaitingApproval")
    observed = service({"model": {"family": "desk", "version": "v1"}}, versions=(v1,))
    observed = replace(observed, revisions=(revision(observed, v1, "stable", 2),))
    assert choose(situation_of(observed, SETTINGS, NOW)).version == v1


SHAPE = ModelShape(
    parameters=8_000_000_000,
    dtype="bfloat16",
    layers=32,
    attention_heads=32,
    key_value_heads=8,
    cache_elements=65_536,
    context_length=8192,
)
ON_GPU: Obj = {"engine": {"type": "vllm", "image": "vllm:1", "gpus": 1}}


def test_a_version_that_the_gpus_cannot_hold_is_not_rolled_out_and_what_serves_goes_on() -> None:
    v1, v2 = version("v1", 300), version("v2", 200, model=SHAPE)
    observed = service(ON_GPU, versions=(v1, v2), gpu_memory=(16 << 30,))
    observed = replace(observed, revisions=(revision(observed, v1, "stable", 2),))
    choice = choose(situation_of(observed, SETTINGS, NOW))
    assert (choice.reason, choice.blocked) == ("EngineNotPossible", True)
    assert choice.version == v1
    assert choice.message.startswith("v2 does not fit: spec.engine.gpus: 1: of each GPU vllm may use 14.4 GiB")
    roomy = replace(observed, gpu_memory=(80 << 30,))
    assert choose(situation_of(roomy, SETTINGS, NOW)).version == v2


def test_pods_that_serve_show_better_than_an_estimate_that_the_model_fits() -> None:
    v1 = version("v1", 300, model=SHAPE)
    observed = service(ON_GPU, versions=(v1,), gpu_memory=(16 << 30,))
    observed = replace(observed, revisions=(revision(observed, v1, "stable", 2),))
    choice = choose(situation_of(observed, SETTINGS, NOW))
    assert (choice.version, choice.reason) == (v1, "")


def test_versions_of_the_same_second_are_told_apart_by_name() -> None:
    observed = service(versions=(version("b", 100), version("a", 100)))
    assert choose(situation_of(observed, SETTINGS, NOW)).version == observed.version("b")


def test_an_older_version_never_replaces_stable() -> None:
    v1, v2 = version("v1", 300), version("v2", 200)
    observed = service(versions=(v1, v2))
    observed = replace(observed, revisions=(revision(observed, v2, "stable", 2),))
    assert choose(situation_of(observed, SETTINGS, NOW)).version == v2


def test_the_pinned_version_is_chosen_though_it_is_older() -> None:
    v1, v2 = version("v1", 300), version("v2", 200)
    observed = service({"model": {"family": "desk", "version": "v1"}}, versions=(v1, v2))
    observed = replace(observed, revisions=(revision(observed, v2, "stable", 2),))
    assert choose(situation_of(observed, SETTINGS, NOW)).version == v1


@pytest.mark.parametrize(
    ("versions", "reason", "blocked"),
    [
        ((), "VersionNotFound", True),
        ((version("v9", phase="Rejected"),), "VersionNotApproved", True),
        ((version("v9", phase="Failed"),), "VersionNotApproved", True),
        ((version("v9", phase="Evaluating"),), "VersionNotApproved", False),
        ((version("v9", phase="AwaitingApproval"),), "VersionNotApproved", False),
    ],
)
def test_a_pin_that_cannot_be_had_says_why(versions: tuple, reason: str, blocked: bool) -> None:  # type: ignore[type-arg]
    pinned = service({"model": {"family": "desk", "version": "v9"}}, versions=versions)
    choice = choose(situation_of(pinned, SETTINGS, NOW))
    assert (choice.revision, choice.reason, choice.blocked) == (None, reason, blocked)
    assert "v9" in choice.message


def test_a_failed_revision_is_passed_over_for_the_next_older_one() -> None:
    v1, v2, v3 = version("v1", 300), version("v2", 200), version("v3", 100)
    observed = service(versions=(v1, v2, v3))
    status = InferenceServiceStatus(failed_revisions=[revision_of(observed, v3, SETTINGS)])
    observed = replace(observed, status=status, revisions=(revision(observed, v1, "stable", 2),))
    assert choose(situation_of(observed, SETTINGS, NOW)).version == v2


def test_a_failure_is_remembered_by_its_deployment_when_the_status_was_wiped() -> None:
    v1, v2 = version("v1", 300), version("v2", 200)
    observed = service(versions=(v1, v2))
    failed = revision(observed, v2, "failed", 0, failed="CanaryWorse: errors 9 %")
    observed = replace(observed, revisions=(revision(observed, v1, "stable", 2), failed))
    assert choose(situation_of(observed, SETTINGS, NOW)).version == v1


@pytest.mark.parametrize(("used_up", "expected"), [(False, "v2"), (True, "v1")])
def test_the_retry_annotation_tries_a_failed_revision_once(used_up: bool, expected: str) -> None:
    v1, v2 = version("v1", 300), version("v2", 200)
    observed = service(versions=(v1, v2))
    name = revision_of(observed, v2, SETTINGS)
    failed = revision(observed, v2, "failed", 0, failed="CanaryWorse", retried=used_up)
    observed = replace(
        service(annotations={RETRY: name}, versions=(v1, v2)),
        revisions=(revision(observed, v1, "stable", 2), failed),
    )
    found = choose(situation_of(observed, SETTINGS, NOW)).version
    assert found is not None
    assert found.name == expected


def test_wiped_statuses_of_versions_move_no_traffic() -> None:
    v1, v2 = version("v1", 300, None), version("v2", 200, None)
    observed = service(versions=(v1, v2, version("v3", 100, None)))
    observed = replace(
        observed, revisions=(revision(observed, v1, "stable", 2), revision(observed, v2, "candidate", 1))
    )
    assert choose(situation_of(observed, SETTINGS, NOW)).version == v2


@pytest.mark.parametrize(
    "baseline", [{"baseline_service": None}, {"baseline_service": "desk", "baseline_digest": digest("v0")}]
)
def test_evidence_against_another_baseline_or_none_waits_to_be_renewed(baseline: dict[str, Any]) -> None:
    v1 = version("v1", 300)
    v2 = version("v2", 200, **baseline)
    observed = service(versions=(v1, v2))
    observed = replace(observed, revisions=(revision(observed, v1, "stable", 2),))
    choice = choose(situation_of(observed, SETTINGS, NOW))
    assert choice.version == v1
    assert choice.reason == "EvidenceOutdated"


def test_evidence_against_what_serves_is_enough() -> None:
    v1 = version("v1", 300)
    v2 = version("v2", 200, baseline_service="desk", baseline_digest=v1.digest)
    observed = service(versions=(v1, v2))
    observed = replace(observed, revisions=(revision(observed, v1, "stable", 2),))
    assert choose(situation_of(observed, SETTINGS, NOW)).version == v2


def test_a_changed_spec_is_a_new_revision_of_the_version_that_serves() -> None:
    v1 = version("v1", 300)
    before = service(versions=(v1,))
    stable = revision(before, v1, "stable", 2)
    after = replace(service({"drainSeconds": 5}, versions=(v1,)), revisions=(stable,))
    choice = choose(situation_of(after, SETTINGS, NOW))
    assert choice.version == v1
    assert choice.revision != stable.revision


def test_a_stable_version_that_was_deleted_goes_on_serving() -> None:
    v1 = version("v1", 300)
    observed = service(versions=())
    observed = replace(observed, revisions=(revision(observed, v1, "stable", 2),))
    assert choose(situation_of(observed, SETTINGS, NOW)).revision is None
    assert not choose(situation_of(observed, SETTINGS, NOW)).blocked


BAR = {"acceptance": {"suites": [{"kind": "floor"}]}}
PASSED = (Gate(name="anchor", kind="floor", verdict="Pass", message=""),)


def beside_v1(*newer: Version, spec: Obj | None = None) -> Observed:
    v1 = version("v1", 300)
    observed = service(BAR | (spec or {}), versions=(v1, *newer))
    return replace(observed, revisions=(revision(observed, v1, "stable", 2),))


def test_a_version_that_lacks_something_waits_and_what_serves_stays() -> None:
    choice = choose(situation_of(beside_v1(version("v2", 200)), SETTINGS, NOW))
    assert choice.version is not None
    assert (choice.version.name, choice.reason, choice.blocked) == ("v1", "NotAccepted", False)
    assert choice.waiting is not None
    assert (choice.waiting.version, len(choice.waiting.missing)) == ("v2", 1)
    assert choice.message.startswith("v2 is not accepted: no suite of kind floor judged it")


def test_an_older_version_that_lacks_nothing_is_taken_while_the_newest_waits() -> None:
    observed = beside_v1(version("v2", 200, gates=PASSED), version("v3", 100))
    choice = choose(situation_of(observed, SETTINGS, NOW))
    assert choice.version == observed.version("v2")
    assert choice.waiting is not None
    assert choice.waiting.version == "v3"


def test_a_first_version_is_held_to_the_bar_too() -> None:
    choice = choose(situation_of(service(BAR, versions=(version("v1"),)), SETTINGS, NOW))
    assert (choice.revision, choice.reason, choice.blocked) == (None, "NotAccepted", False)
    accepted = choose(situation_of(service(BAR, versions=(version("v1", gates=PASSED),)), SETTINGS, NOW))
    assert accepted.version is not None


def test_a_pinned_version_is_held_to_the_bar_too_and_a_person_must_act() -> None:
    pin = {"model": {"family": "desk", "version": "v2"}}
    choice = choose(situation_of(beside_v1(version("v2", 200), spec=pin), SETTINGS, NOW))
    assert (choice.revision, choice.reason, choice.blocked) == (None, "NotAccepted", True)
    assert choose(situation_of(beside_v1(version("v2", 200, gates=PASSED), spec=pin), SETTINGS, NOW)).version


def test_a_higher_bar_takes_nothing_down_that_serves_or_is_tried() -> None:
    v1, v2 = version("v1", 300), version("v2", 200)
    observed = service(BAR, versions=(v1, v2))
    observed = replace(
        observed, revisions=(revision(observed, v1, "stable", 2), revision(observed, v2, "candidate", 1))
    )
    assert choose(situation_of(observed, SETTINGS, NOW)).version == v2


def test_a_changed_engine_waits_for_evidence_if_the_bar_asks_for_it() -> None:
    v1 = version("v1", 300)
    before = service(versions=(v1,))
    bar = {"acceptance": {"sameEngine": True}, "engine": {"args": ["--new"]}}
    observed = replace(service(bar, versions=(v1,)), revisions=(revision(before, v1, "stable", 2),))
    choice = choose(situation_of(observed, SETTINGS, NOW))
    assert (choice.revision, choice.reason, choice.blocked) == (None, "NotAccepted", True)


def test_the_operators_bar_applies_to_a_service_without_one() -> None:
    settings = replace(SETTINGS, acceptance=Acceptance.model_validate(BAR["acceptance"]))
    observed = replace(beside_v1(version("v2", 200)), spec=service().spec)
    assert choose(situation_of(observed, settings, NOW)).reason == "NotAccepted"


def test_nothing_is_missing_while_the_evidence_is_renewed() -> None:
    outdated = version("v2", 200, baseline_service="desk", baseline_digest=digest("v0"))
    situation = situation_of(beside_v1(outdated), SETTINGS, NOW)
    assert lacks(situation, outdated) == ()
    assert choose(situation).waiting is None
    assert len(lacks(situation, version("v2", 200))) == 1
