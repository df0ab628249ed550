"""A hidden candidate: the Service selects stable alone, until the candidate may have users."""

from dataclasses import replace
from typing import Any

import pytest

from driftloop.api.inferenceservice import InferenceServiceStatus, ShadowStatus
from driftloop.controller.kinds.inferenceservice.decide import decide
from driftloop.controller.kinds.inferenceservice.observed import Observed
from driftloop.controller.kinds.inferenceservice.questions import questions
from driftloop.controller.kinds.inferenceservice.revision import revision_of
from driftloop.controller.kinds.inferenceservice.situation import situation_of
from driftloop.controller.traffic import ShadowCounts
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import HIDDEN, PROMOTED, REVISION, ROLE, ROLLOUT, SHADOW_STARTED, WEIGHT
from driftloop.controller.vocabulary.plan import Apply, Create, Delete, Obj, Plan
from unit.controller.kinds.inferenceservice.builders import NOW, SETTINGS, adjusted, ago, revision, service, version

V1, V2 = version("v1", 300), version("v2", 200)
SPEC: Obj = {"canary": {"shadow": {"requests": 100}}}
R1, R2 = (revision_of(service(SPEC, versions=(v,)), v, SETTINGS) for v in (V1, V2))
SAME = {"candidate": 0.0, "stable": 0.0, "neither": 400.0}
GOOD = ShadowCounts({"failed": SAME, "slow": SAME, "length": SAME})
BAD = ShadowCounts({"failed": {"candidate": 200.0, "neither": 200.0}})
STARTED = {"shadow_started": ago(60)}


def live(name: str, **selector: str) -> Obj:
    body = {"spec": {"selector": selector}, "metadata": {"name": name, "namespace": "team", "uid": f"uid-{name}"}}
    return {"apiVersion": "v1", "kind": "Service"} | body


def hidden(candidate: Any = None, spec: Obj | None = None, stable: Any = None, **parts: Any) -> Observed:
    """v1 serves with two pods, and v2 has one without users."""
    parts.setdefault("services", (live("desk", **{REVISION: R1}), live("desk-shadow")))
    observed = service(SPEC if spec is None else spec, parts.pop("annotations", None), versions=(V1, V2), **parts)
    serving = revision(observed, V1, "stable", 2, **({"can_shadow": True} | (stable or {})))
    fields: Obj = {"replicas": 1, "since": ago(60), "hidden": True} | (candidate or {})
    return replace(observed, revisions=(serving, revision(observed, V2, "candidate", fields.pop("replicas"), **fields)))


def selector(plan: Plan, name: str = "desk") -> Obj | None:
    """The selector that a Service gets."""
    actions = [*plan.actions, *(action for group in plan.beside for action in group.actions)]
    bodies = [action.body for action in actions if isinstance(action, Apply) and action.body["kind"] == "Service"]
    return next((body["spec"]["selector"] for body in bodies if body["metadata"]["name"] == name), None)


def status(plan: Plan) -> Obj:
    assert plan.status is not None
    return plan.status


def notes(observed: Observed, plan: Plan, name: str = "v2") -> Any:
    (found,) = adjusted(plan.actions, next(r.uid for r in observed.revisions if r.version == name))
    return found.annotations


def test_the_service_selects_stable_alone_before_a_hidden_candidate_is_created() -> None:
    observed = service(SPEC, versions=(V1, V2))
    plan = decide(replace(observed, revisions=(revision(observed, V1, "stable", 2),)), SETTINGS, NOW)
    kinds = [action.body["kind"] for action in plan.actions if isinstance(action, Apply | Create)]
    assert kinds.index("Service") < kinds.index("Deployment")
    assert (selector(plan) or {})[REVISION] == R1
    (created,) = [a.body for a in plan.actions if isinstance(a, Create) and a.body["kind"] == "Deployment"]
    assert created["metadata"]["annotations"][HIDDEN] == "true"
    assert status(plan)["phase"] == "Shadow"


def test_stable_follows_the_spec_though_the_policy_of_a_hidden_candidate_is_refused() -> None:
    observed = service(SPEC | {"replicas": 5}, versions=(V1, V2))
    observed = replace(observed, revisions=(revision(observed, V1, "stable", 2),))
    plan = decide(observed, SETTINGS, NOW)
    assert isinstance(plan.actions[0], Apply)  # the first refusal ends the chain
    groups = [group for group in plan.beside if adjusted(group.actions, observed.revisions[0].uid)]
    assert [len(group.actions) for group in groups] == [1]
    assert not adjusted(plan.actions, observed.revisions[0].uid)


def test_without_a_shadow_in_the_spec_nothing_is_hidden() -> None:
    observed = service(versions=(V1, V2))
    plan = decide(replace(observed, revisions=(revision(observed, V1, "stable", 2),)), SETTINGS, NOW)
    (created,) = [a.body for a in plan.actions if isinstance(a, Create) and a.body["kind"] == "Deployment"]
    assert HIDDEN not in created["metadata"]["annotations"]
    assert REVISION not in (selector(plan) or {})


def test_copies_are_wanted_when_its_pods_are_ready_and_it_has_no_traffic() -> None:
    observed = hidden()
    plan = decide(observed, SETTINGS, NOW)
    assert notes(observed, plan) == {SHADOW_STARTED: timestamp(NOW)}
    assert (status(plan)["phase"], status(plan)["traffic"]) == ("Shadow", "100/0")
    assert selector(plan, "desk-shadow") is None
    begun = decide(hidden(STARTED), SETTINGS, NOW)
    assert (selector(begun, "desk-shadow") or {})[REVISION] == R2
    assert (selector(begun) or {})[REVISION] == R1


def test_one_that_passes_is_released_and_then_the_service_selects_it() -> None:
    observed = hidden(STARTED, shadow_counts=GOOD)
    plan = decide(observed, SETTINGS, NOW)
    assert notes(observed, plan) == {HIDDEN: None, SHADOW_STARTED: None, WEIGHT: None}
    assert [event.reason for event in plan.events] == ["ShadowPassed"]
    assert status(plan)["shadow"]["verdict"] == "Pass"
    released = decide(hidden({"hidden": False}), SETTINGS, NOW)
    assert REVISION not in (selector(released) or {})
    assert status(released)["phase"] == "Canary"
    deletes = [a for group in released.beside for a in group.actions if isinstance(a, Delete)]
    assert [delete.name for delete in deletes] == ["desk-shadow"]


def test_a_worse_one_is_rolled_back_with_the_reason_and_stays_hidden_until_its_pods_are_gone() -> None:
    observed = hidden(STARTED, shadow_counts=BAD)
    plan = decide(observed, SETTINGS, NOW)
    (found,) = adjusted(plan.actions, observed.revisions[1].uid)
    assert (found.labels, found.replicas) == ({ROLE: "failed"}, 0)
    assert HIDDEN not in (found.annotations or {})
    assert "before any user: failed: in 400 pairs" in plan.events[0].message
    assert (selector(plan) or {})[REVISION] == R1
    stable, failed = observed.revisions
    going = replace(failed, role="failed", failed="worse", replicas=0, pods=1)
    assert (selector(decide(replace(observed, revisions=(stable, going)), SETTINGS, NOW)) or {})[REVISION] == R1
    gone = replace(going, pods=0, available=0)
    assert REVISION not in (selector(decide(replace(observed, revisions=(stable, gone)), SETTINGS, NOW)) or {})


@pytest.mark.parametrize("counts", [None, ShadowCounts({})])
def test_unknown_pairs_release_nothing(counts: ShadowCounts | None) -> None:
    observed = hidden(STARTED, shadow_counts=counts)
    plan = decide(observed, SETTINGS, NOW)
    assert status(plan)["phase"] == "Shadow"
    assert not adjusted(plan.actions, observed.revisions[1].uid)
    late = decide(hidden({"shadow_started": ago(4000)}, shadow_counts=counts), SETTINGS, NOW)
    assert status(late)["phase"] == "Paused"


def test_a_paused_shadow_is_asked_about_once_a_minute() -> None:
    known = ShadowStatus(started=timestamp(ago(60)), looked=timestamp(ago(10)), verdict="Paused", message="few")
    paused = hidden(STARTED, status=InferenceServiceStatus(phase="Paused", shadow=known))
    assert questions(situation_of(paused, SETTINGS, NOW)).shadow is None
    assert status(decide(paused, SETTINGS, NOW))["phase"] == "Paused"
    running = hidden(STARTED)
    asked = questions(situation_of(running, SETTINGS, NOW)).shadow
    assert asked is not None
    assert (asked.stable, asked.candidate) == (R1, R2)


def test_stable_pods_of_an_earlier_release_can_not_copy_and_a_person_decides() -> None:
    old = hidden(stable={"can_shadow": False})
    plan = decide(old, SETTINGS, NOW)
    assert status(plan)["phase"] == "Paused"
    assert "remove spec.canary.shadow" in plan.events[0].message
    removed = hidden(spec={}, stable={"can_shadow": False})
    assert notes(removed, decide(removed, SETTINGS, NOW)) == {HIDDEN: None, SHADOW_STARTED: None, WEIGHT: None}


def test_a_person_promotes_it_and_stable_keeps_its_pods_until_the_service_selects_both() -> None:
    observed = hidden({**STARTED, "replicas": 1}, annotations={ROLLOUT: f"promote {R2} by Ada"})
    found = notes(observed, decide(observed, SETTINGS, NOW))
    assert found[HIDDEN] is None
    assert PROMOTED in found
    promoted = {"hidden": False, "promoted": ago(5), "replicas": 2}
    narrow = hidden(promoted)
    plan = decide(narrow, SETTINGS, NOW)
    assert not plan.actions
    assert REVISION not in (selector(plan) or {})
    wide = hidden(promoted, services=(live("desk"),))
    assert adjusted(decide(wide, SETTINGS, NOW).actions, wide.revisions[0].uid)


def test_one_that_is_no_longer_wanted_goes_even_if_stable_is_short() -> None:
    observed = hidden(STARTED, spec={**SPEC, "model": {"family": "desk", "version": "v1"}}, stable={"available": 0})
    (found,) = adjusted(decide(observed, SETTINGS, NOW).actions, observed.revisions[1].uid)
    assert (found.labels, found.replicas) == ({ROLE: "retired"}, 0)


def test_the_hash_of_a_revision_does_not_depend_on_the_shadow() -> None:
    assert revision_of(service(versions=(V2,)), V2, SETTINGS) == R2


def test_with_a_gateway_one_that_passes_gets_users_by_weight_and_stays_hidden() -> None:
    spec = SPEC | {"gateway": {"name": "public"}}
    observed = hidden(STARTED, spec, shadow_counts=GOOD)
    assert notes(observed, decide(observed, SETTINGS, NOW)) == {SHADOW_STARTED: None, WEIGHT: "0"}
