"""The version that a service with a pin would roll out, and the manifest that pins it."""

from dataclasses import replace

import pytest
import yaml

from driftloop.api.inferenceservice import InferenceServiceSpec, InferenceServiceStatus
from driftloop.api.modelversion import ModelVersionPhase
from driftloop.controller.kinds.inferenceservice.decide import decide
from driftloop.controller.kinds.inferenceservice.observed import Observed
from driftloop.controller.kinds.inferenceservice.proposal import proposal
from driftloop.controller.kinds.inferenceservice.selection import choose
from driftloop.controller.kinds.inferenceservice.situation import situation_of
from driftloop.controller.vocabulary.plan import Obj
from unit.controller.kinds.inferenceservice.builders import NOW, SETTINGS, revision, service, version

OLD, NEW = version("v1", 300), version("v2", 200, summary="3 of 3 passed")


def pinned(to: str | None = "v1", spec: Obj | None = None) -> Observed:
    """A service that serves v1, and may serve v2."""
    model = {"family": "desk"} | ({"version": to} if to else {})
    observed = service({"model": model} | (spec or {}), versions=(OLD, NEW))
    return replace(observed, revisions=(revision(observed, OLD, "stable", 2),))


def test_a_newer_version_is_proposed_with_what_it_has_shown_and_not_rolled_out() -> None:
    observed = pinned()
    situation = situation_of(observed, SETTINGS, NOW)
    found = proposal(situation)
    assert found is not None
    assert (found.version, found.message) == ("v2", "v2 could replace v1: 3 of 3 passed")
    assert choose(situation).version == OLD


def test_the_manifest_has_the_fields_to_commit() -> None:
    found = proposal(situation_of(pinned(), SETTINGS, NOW))
    assert found is not None
    document = yaml.safe_load(found.manifest)
    assert (document["kind"], document["metadata"]) == ("InferenceService", {"name": "desk", "namespace": "team"})
    assert InferenceServiceSpec.model_validate(document["spec"]).model.version == "v2"


def test_with_approval_git_nothing_is_rolled_out_without_a_pin_and_a_version_is_proposed() -> None:
    empty = service({"approval": "git"}, versions=(OLD, NEW))
    situation = situation_of(empty, SETTINGS, NOW)
    found = proposal(situation)
    assert found is not None
    assert (found.version, found.message) == ("v2", "v2 could replace nothing: 3 of 3 passed")
    assert (choose(situation).revision, choose(situation).reason) == (None, "NoVersionPinned")


def test_with_approval_git_what_serves_goes_on_serving_when_its_pin_is_removed() -> None:
    plan = decide(pinned(None, {"approval": "git"}), SETTINGS, NOW)
    assert plan.status is not None
    assert (plan.status["phase"], plan.status["stable"]["version"]) == ("Serving", "v1")
    assert plan.status["proposal"]["version"] == "v2"


def test_a_service_that_takes_versions_itself_has_no_proposal() -> None:
    assert proposal(situation_of(pinned(None), SETTINGS, NOW)) is None


@pytest.mark.parametrize("phase", ["Rejected", "Evaluating", "AwaitingApproval"])
def test_what_could_not_be_rolled_out_is_not_proposed(phase: ModelVersionPhase) -> None:
    observed = replace(pinned(), versions=(OLD, replace(NEW, phase=phase)))
    assert proposal(situation_of(observed, SETTINGS, NOW)) is None


def test_what_lacks_the_acceptance_is_not_proposed() -> None:
    strict = {"acceptance": {"suites": [{"kind": "retention", "minItems": 200}]}}
    assert proposal(situation_of(pinned(spec=strict), SETTINGS, NOW)) is None


def test_a_pin_that_is_already_the_newest_is_not_proposed_again() -> None:
    assert proposal(situation_of(pinned("v2"), SETTINGS, NOW)) is None


def test_a_proposal_is_an_event_once() -> None:
    observed = pinned()
    first = decide(observed, SETTINGS, NOW)
    assert [e.reason for e in first.events] == ["VersionProposed"]
    assert "spec.model.version: v2" in first.events[0].message
    known = InferenceServiceStatus.model_validate({"proposal": (first.status or {})["proposal"]})
    assert decide(replace(observed, status=known), SETTINGS, NOW).events == ()
