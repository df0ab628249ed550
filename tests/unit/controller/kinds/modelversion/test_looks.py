"""Each look at the items of a suite has a number of its own, fixed before the evaluation runs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.modelversion import AnchorStatus, ModelArtefact
from driftloop.controller.kinds.modelversion.anchor import Anchor
from driftloop.controller.kinds.modelversion.comparison import Baseline, NoBaseline, comparison_of
from driftloop.controller.kinds.modelversion.evaluation import evaluation_of
from driftloop.controller.kinds.modelversion.looks import anchor_looks_of, looks_of, plan_of
from driftloop.controller.vocabulary.plan import Obj
from unit.controller.stages import (
    NOW,
    SETTINGS,
    Cluster,
    approved,
    deployment,
    digest,
    observe_version,
    service,
    version,
)

DESK = service()
STABLE = approved(version("support-1", "1"))
ITEMS = digest("d")


OLD = {"name": "old", "kind": "retention", "uri": "pvc://shared/old.jsonl", "digest": digest("d"), "totalDelta": 0.1}
SINCE_FIRST = Anchor(
    AnchorStatus(version="support-1", digest=digest("1")),
    ModelArtefact(uri="pvc://shared/versions/support-1", digest=digest("1")),
)


def anchored(number: int, look: int | None = None, anchor: str = digest("1"), baseline: str = digest("3")) -> Obj:
    """Version `number` with a total; if it was compared with an anchor, with the number of that look."""
    body = version(
        f"support-{number}", f"{number % 10}", f"2026-01-01T11:{number:02}:00Z", evaluation={"suites": [OLD]}
    )
    if look is None:
        return approved(body)
    suites = [{"name": "old", "look": 1, "alpha": "0.03", "anchorLook": look}]
    plan = {"baseline": baseline, "anchor": {"version": "support-1", "digest": anchor}, "suites": suites}
    return body | {"status": {"phase": "Approved", "plan": plan}}


def look_of(own: Obj, *others: Obj, stable: Obj | None = STABLE, status: Obj | None = None) -> int:
    """The number of the look at the items of suite `new`."""
    served: dict[str, Any] = {}
    if stable is not None:
        served = {"services": [DESK], "deployments": (deployment(DESK, stable["metadata"]["name"]),)}
    everything = (*([stable] if stable else []), *others, own)
    observed = observe_version(own, Cluster(), status or {}, versions=everything, **served)
    comparison = comparison_of(observed, SETTINGS, NOW)
    assert isinstance(comparison.baseline, Baseline | NoBaseline)
    return looks_of(plan_of(evaluation_of(comparison, comparison.baseline)))["new"]


def named(number: int, **status: Any) -> Obj:
    """Version `number`, which is younger than those with smaller numbers."""
    body = version(f"support-{number}", f"{number % 10}", f"2026-01-01T11:{number:02}:00Z")
    return body | {"status": status} if status else body


def looked(number: int, look: int, baseline: str | None = digest("1"), phase: str = "Rejected") -> Obj:
    """Version `number` after its evaluation, or in it."""
    plan: dict[str, Any] = {"suites": [{"name": "new", "look": look, "alpha": "0.01"}]}
    return named(number, phase=phase, plan=plan | ({"baseline": baseline} if baseline else {}))


def test_the_first_candidate_has_the_first_look() -> None:
    assert look_of(named(9)) == 1


def test_each_candidate_that_was_compared_with_this_stable_version_took_a_look() -> None:
    assert look_of(named(9), looked(3, 1), looked(4, 2)) == 3


@pytest.mark.parametrize("phase", ["Evaluating", "Approved", "Failed", "AwaitingApproval"])
def test_a_look_counts_in_every_phase(phase: str) -> None:
    assert look_of(named(9), looked(3, 1, phase=phase)) == 2


def test_a_new_stable_version_or_fresh_items_begin_anew() -> None:
    assert look_of(named(9), looked(3, 7, baseline=digest("f"))) == 1
    assert look_of(named(9), looked(3, 7, baseline=None)) == 1
    fresh = {"suites": [{"name": "new", "kind": "target", "uri": "pvc://shared/new.jsonl", "digest": digest("e")}]}
    assert look_of(version("support-9", "9", "2026-01-01T11:09:00Z", evaluation=fresh), looked(3, 7)) == 1


def test_the_same_items_under_another_name_are_the_same_items() -> None:
    other = {"suites": [{"name": "other", "kind": "floor", "uri": "pvc://shared/x.jsonl", "digest": ITEMS}]}
    plan = {"baseline": digest("1"), "suites": [{"name": "other", "look": 4, "alpha": "0.01"}]}
    judged = version("support-3", "3", evaluation=other) | {"status": {"phase": "Rejected", "plan": plan}}
    assert look_of(named(9), judged) == 5


def test_without_a_digest_the_same_uri_means_the_same_items() -> None:
    suites = {"suites": [{"name": "new", "kind": "target", "uri": "pvc://shared/new.jsonl"}]}
    plan = {"baseline": digest("1"), "suites": [{"name": "new", "look": 1, "alpha": "0.01"}]}
    judged = version("support-3", "3", evaluation=suites) | {"status": {"phase": "Rejected", "plan": plan}}
    assert look_of(version("support-9", "9", "2026-01-01T11:09:00Z", evaluation=suites), judged) == 2


def test_without_a_stable_version_a_floor_is_looked_at_repeatedly_too() -> None:
    assert look_of(named(9), looked(3, 1, baseline=None), stable=None) == 2


def test_versions_from_before_looks_were_numbered_count_one_each() -> None:
    baseline = {"version": "support-1", "digest": digest("1"), "service": "desk"}
    assert look_of(named(9), named(3, phase="Rejected", baseline=baseline), named(4, phase="Rejected")) == 2


def test_an_older_version_that_is_not_judged_yet_keeps_its_number_free() -> None:
    assert look_of(named(9), named(3), named(4, phase="Pending")) == 3
    assert look_of(named(3), named(9)) == 1


def test_the_number_stays_once_it_is_recorded() -> None:
    status = {"phase": "Evaluating", "plan": looked(9, 2)["status"]["plan"]}
    assert look_of(named(9), looked(3, 1), looked(4, 3), status=status) == 2


@given(st.permutations(range(2, 6)), st.data())
def test_no_two_looks_have_the_same_number(order: list[int], data: st.DataObject) -> None:
    """In whatever order versions begin, and whatever becomes of the others."""
    found: dict[int, Obj] = {number: named(number) for number in order}
    taken = []
    for number in order:
        taken.append(look_of(named(number), *(body for other, body in found.items() if other != number)))
        phase = data.draw(st.sampled_from(["Evaluating", "Rejected", "Failed"]))
        found[number] = looked(number, taken[-1], phase=phase)
    assert len(set(taken)) == len(taken)


def test_versions_that_begin_at_the_same_moment_take_different_looks() -> None:
    """None of them sees the status of the others yet."""
    taken = [look_of(named(n), *(named(other) for other in (2, 3, 4) if other != n)) for n in (2, 3, 4)]
    assert taken == [1, 2, 3]


def anchor_look_of(*others: Obj, status: Obj | None = None) -> int:
    """The number of version 9's look with the anchor, while version 4 is stable."""
    own = anchored(9) | {"status": {}}
    served: dict[str, Any] = {"services": [DESK], "deployments": (deployment(DESK, "support-4"),)}
    observed = observe_version(own, Cluster(), status or {}, versions=(STABLE, *others, own), **served)
    comparison = comparison_of(observed, SETTINGS, NOW)
    assert isinstance(comparison.baseline, Baseline)
    plan = plan_of(evaluation_of(comparison, comparison.baseline, SINCE_FIRST))
    assert plan.anchor == SINCE_FIRST.status
    return anchor_looks_of(plan)["old"]


def test_looks_with_the_anchor_go_on_when_another_version_becomes_stable() -> None:
    assert anchor_look_of(anchored(4)) == 1
    assert anchor_look_of(anchored(3, 1), anchored(4, 2)) == 3
    assert anchor_look_of(anchored(3, 7, anchor=digest("f")), anchored(4)) == 1


def test_a_recorded_plan_with_another_anchor_does_not_count() -> None:
    suites = [{"name": "old", "look": 1, "alpha": "0.03", "anchorLook": 5}]
    plan = {"baseline": digest("4"), "anchor": {"version": "support-1", "digest": digest("1")}, "suites": suites}
    assert anchor_look_of(anchored(4), status={"plan": plan}) == 5
    other = plan | {"anchor": {"version": "support-1", "digest": digest("f")}}
    assert anchor_look_of(anchored(4), status={"plan": other}) == 1


@pytest.mark.parametrize(("items", "enough"), [(None, "Unknown"), (80, "No"), (200, "Rarely"), (500, "Yes")])
def test_the_plan_says_whether_the_items_are_enough_before_the_evaluation(items: int | None, enough: str) -> None:
    suite = {"name": "old", "kind": "retention", "uri": "pvc://shared/old.jsonl", "independentItems": items}
    own = version("support-9", "9", "2026-01-01T11:30:00Z", evaluation={"suites": [suite]})
    served: dict[str, Any] = {"services": [DESK], "deployments": (deployment(DESK, "support-1"),)}
    comparison = comparison_of(observe_version(own, Cluster(), {}, versions=(STABLE, own), **served), SETTINGS, NOW)
    assert isinstance(comparison.baseline, Baseline)
    (found,) = plan_of(evaluation_of(comparison, comparison.baseline)).suites
    assert (found.items, found.delta, found.least_items, found.planned_items) == (items, "0.0500", 88, 340)
    assert found.enough == enough
