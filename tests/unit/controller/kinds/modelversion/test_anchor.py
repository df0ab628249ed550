"""The anchor of a version is inherited from the stable one, and is never guessed."""

from typing import Any

import pytest

from driftloop.api.modelversion import AnchorStatus
from driftloop.controller.kinds.modelversion.anchor import Anchor, anchor_of
from driftloop.controller.kinds.modelversion.comparison import Baseline, NoBaseline, Unknown, comparison_of
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
OLD = {"name": "old", "kind": "retention", "uri": "pvc://shared/old.jsonl", "totalDelta": 0.1}
FIRST = approved(version("support-1", "1"))


def candidate(**evaluation: Any) -> Obj:
    return version("support-9", "9", "2026-01-01T11:30:00Z", evaluation={"suites": [OLD]} | evaluation)


def since(anchor: str, character: str) -> Obj:
    """A stable version that was compared with this anchor."""
    plan = {"anchor": {"version": anchor, "digest": digest(character)}, "suites": []}
    return version("support-3", "3") | {"status": {"phase": "Approved", "plan": plan}}


def found(own: Obj, *others: Obj, stable: str | None = None) -> Anchor | Unknown | None:
    served: dict[str, Any] = {"services": [DESK], "deployments": (deployment(DESK, stable),)} if stable else {}
    observed = observe_version(own, Cluster(), versions=(*others, own), **served)
    baseline = comparison_of(observed, SETTINGS, NOW).baseline
    assert isinstance(baseline, Baseline | NoBaseline)
    return anchor_of(observed, baseline)


def name_of(anchor: Anchor | Unknown | None) -> AnchorStatus:
    assert isinstance(anchor, Anchor)
    return anchor.status


def test_the_first_anchor_is_the_stable_version() -> None:
    expected = AnchorStatus(version="support-1", digest=digest("1"))
    assert name_of(found(candidate(), FIRST, stable="support-1")) == expected


def test_the_anchor_stays_when_another_version_becomes_stable() -> None:
    anchor = name_of(found(candidate(), FIRST, since("support-1", "1"), stable="support-3"))
    assert anchor == AnchorStatus(version="support-1", digest=digest("1"))


def test_a_named_anchor_counts_before_the_inherited_one() -> None:
    other = version("other", "7")
    own = candidate(anchor="other")
    assert name_of(found(own, FIRST, other, since("support-1", "1"), stable="support-3")).version == "other"


def test_without_a_total_or_a_stable_version_there_is_no_anchor() -> None:
    plain = {key: OLD[key] for key in ("name", "kind", "uri")}
    assert found(candidate(suites=[plain]), FIRST, stable="support-1") is None
    assert found(candidate(), FIRST) is None


@pytest.mark.parametrize(
    ("own", "others", "message"),
    [
        (candidate(), (since("support-1", "1"),), "the anchor, ModelVersion support-1, does not exist"),
        (candidate(), (since("support-1", "2"), FIRST), "the anchor, ModelVersion support-1, is another model now"),
        (candidate(anchor="gone"), (since("support-1", "1"),), "the anchor, ModelVersion gone, does not exist"),
        (candidate(anchor="support-9"), (since("support-1", "1"),), "evaluation.anchor names this version itself"),
    ],
)
def test_an_anchor_that_is_gone_is_not_the_same_as_none(own: Obj, others: tuple[Obj, ...], message: str) -> None:
    anchor = found(own, *others, stable="support-3")
    assert isinstance(anchor, Unknown)
    assert anchor.reason == "AnchorNotFound"
    assert anchor.message.startswith(message)
    assert "whose evaluation.anchor names another one" in anchor.message


def test_an_anchor_that_was_created_again_is_told_what_it_is() -> None:
    """It is younger than the stable version, and got the message about evaluation.anchor, which it does not set."""
    anchor = found(candidate(), since("support-9", "9"), stable="support-3")
    assert isinstance(anchor, Unknown)
    assert anchor.message.startswith("this version is the anchor of the stable version support-3")
