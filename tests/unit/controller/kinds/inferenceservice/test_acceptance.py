"""What a version lacks before a service takes it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.acceptance import Acceptance, RequiredSuite
from driftloop.api.engine import Engine
from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.api.inferenceservice import InferenceServiceStatus, WaitingVersion
from driftloop.api.modelversion import Gate
from driftloop.controller.kinds.engines import engine_hash, resolved
from driftloop.controller.kinds.inferenceservice.acceptance import (
    announcement,
    bar_of,
    message,
    missing,
    unreachable,
    waiting,
)
from driftloop.controller.kinds.inferenceservice.observed import Observed, Version
from driftloop.controller.kinds.inferenceservice.situation import Situation, situation_of
from driftloop.controller.vocabulary.plan import Obj
from unit.controller.kinds.inferenceservice.builders import JOB_SPEC, NOW, SETTINGS, ago, revision, service, version

OUR_ENGINE = engine_hash(resolved(Engine(), SETTINGS))
OTHER: Obj = {"engine": {"args": ["--other"]}}


def gate(kind: Literal["target", "retention", "floor"], name: str = "a", **fields: Any) -> Gate:
    passed: dict[str, Any] = {"verdict": "Pass", "message": "", "items": 300, "delta": "0.0500", "lower": "0.6000"}
    return Gate.model_validate(passed | {"name": name, "kind": kind} | fields)


def judged(*gates: Gate, **fields: Any) -> Version:
    known: dict[str, Any] = {"engine": OUR_ENGINE, "evaluated": ago(60)}
    return version("v2", 100, gates=gates, **(known | fields))


def asked(v: Version, default: Acceptance | None = None, **acceptance: Any) -> tuple[str, ...]:
    """What the version lacks for a service that serves nothing yet."""
    observed = service({"acceptance": acceptance}, versions=(v,))
    settings = replace(SETTINGS, acceptance=default or Acceptance())
    return missing(situation_of(observed, settings, NOW), v)


def beside(observed: Observed, stable: Version) -> Situation:
    observed = replace(observed, revisions=(revision(observed, stable, "stable", 2),))
    return situation_of(observed, SETTINGS, NOW)


def test_without_a_bar_nothing_is_missing() -> None:
    assert asked(version("v2")) == ()


@pytest.mark.parametrize(
    ("required", "found", "sentence"),
    [
        ({"kind": "floor"}, None, "no suite of kind floor judged it: add one"),
        ({"kind": "floor", "name": "a"}, gate("floor", "b"), "no suite a of kind floor judged it"),
        ({"kind": "retention", "name": "a"}, gate("floor", "a"), "no suite a of kind retention judged it"),
        ({"kind": "floor", "minItems": 301}, gate("floor"), "suite a (kind floor) has 300 items, 301 are required"),
        ({"kind": "floor", "minItems": 1}, gate("floor", items=None), "an unknown number of items"),
        ({"kind": "retention", "maxDelta": 0.04}, gate("retention"), "allows a loss of 0.0500, at most 0.04"),
        ({"kind": "retention", "maxDelta": 0.04}, gate("retention", delta=None), "a loss of unknown size"),
        ({"kind": "target", "minGain": 0.6}, gate("target"), "a gain above 0.6000, more than 0.6 is required"),
        ({"kind": "target", "minGain": 0.0}, gate("target", lower=None), "shows an unknown gain"),
        ({"kind": "target", "minGain": 0.0}, gate("target", lower="inf"), "more than 0.0 is required"),
        ({"kind": "floor", "minimum": 0.61}, gate("floor"), "an accuracy of at least 0.6000, 0.61 is required"),
        ({"kind": "floor", "minimum": 0.1}, gate("floor", lower="many"), "0.1 is required"),
        ({"kind": "floor"}, gate("floor", verdict="Inconclusive"), "has the verdict Inconclusive"),
        ({"kind": "target"}, gate("target", verdict="NotApplicable"), "set onlyBesideStable"),
    ],
)
def test_what_is_missing_names_the_suite_and_the_fix(required: Obj, found: Gate | None, sentence: str) -> None:
    (said,) = asked(judged(*([found] if found else [])), suites=[required])
    assert sentence in said


@pytest.mark.parametrize(
    ("required", "found"),
    [
        ({"kind": "floor", "minItems": 300, "minimum": 0.6}, gate("floor")),
        ({"kind": "retention", "maxDelta": 0.05}, gate("retention")),
        ({"kind": "target", "minGain": 0.59}, gate("target")),
        ({"kind": "target", "name": "a"}, gate("target")),
    ],
)
def test_a_bound_that_is_just_met_is_met(required: Obj, found: Gate) -> None:
    assert asked(judged(found), suites=[required]) == ()


def test_without_a_name_one_suite_must_meet_all_bounds_and_the_nearest_is_reported() -> None:
    few, weak = gate("floor", "few", items=10), gate("floor", "weak", items=10, lower="0.1000")
    required = {"kind": "floor", "minItems": 100, "minimum": 0.5}
    (said,) = asked(judged(weak, few), suites=[required])
    assert said == "suite few (kind floor) has 10 items, 100 are required: add items"
    assert asked(judged(weak, few, gate("floor", "good")), suites=[required]) == ()


def test_a_first_version_need_not_pass_what_is_required_only_beside_a_stable_one() -> None:
    first = judged(gate("retention", verdict="NotApplicable"))
    required = {"kind": "retention", "onlyBesideStable": True}
    assert asked(first, suites=[required]) == ()
    observed = service({"acceptance": {"suites": [required]}}, versions=(version("v1", 300), first))
    assert len(missing(beside(observed, version("v1", 300)), first)) == 1


def test_the_engine_of_the_evaluation_must_be_the_services_own() -> None:
    assert asked(judged(), sameEngine=True) == ()
    (said,) = asked(judged(engine="01234567"), sameEngine=True)
    assert "01234567" in said
    assert OUR_ENGINE in said
    (unknown,) = asked(judged(engine=None), sameEngine=True)
    assert "unknown" in unknown


def test_resources_are_no_part_of_the_engine() -> None:
    observed = service(
        {"acceptance": {"sameEngine": True}, "engine": {"resources": {"limits": {"memory": "1Gi"}}}},
        versions=(judged(),),
    )
    assert missing(situation_of(observed, SETTINGS, NOW), judged()) == ()


def test_an_evaluation_must_not_be_too_old_and_says_how_it_is_renewed() -> None:
    assert asked(judged(), maxAgeSeconds=60) == ()
    (said,) = asked(judged(evaluated=ago(61)), maxAgeSeconds=60)
    assert "61 s old" in said
    assert "kubectl annotate mver v2 --overwrite driftloop.dev/retry=VALUE" in said
    (unknown,) = asked(judged(evaluated=None), maxAgeSeconds=60)
    assert "time of its evaluation is unknown" in unknown


def test_a_version_that_is_not_evaluated_again_is_not_told_to_ask_for_it() -> None:
    old, stable = judged(evaluated=None), version("v3", 50)
    observed = service({"acceptance": {"maxAgeSeconds": 60}}, versions=(old, stable))
    assert missing(beside(observed, stable), old)[0].endswith("train a newer version")


def test_what_serves_is_not_asked_again_though_the_bar_was_raised() -> None:
    v1 = version("v1", 300)
    bar = {"suites": [{"kind": "floor"}], "sameEngine": True, "maxAgeSeconds": 60}
    assert missing(beside(service({"acceptance": bar}, versions=(v1,)), v1), v1) == ()


def test_another_revision_of_what_serves_is_asked_only_for_its_engine() -> None:
    v1 = version("v1", 300, engine=OUR_ENGINE)
    bar = {"suites": [{"kind": "floor"}], "sameEngine": True, "maxAgeSeconds": 60}
    before = service({"acceptance": bar}, versions=(v1,))
    stable = revision(before, v1, "stable", 2)
    for change, count in (({"drainSeconds": 5}, 0), (OTHER, 1)):
        after = replace(service({"acceptance": bar} | change, versions=(v1,)), revisions=(stable,))
        assert len(missing(situation_of(after, SETTINGS, NOW), v1)) == count


def test_of_two_bars_the_stricter_bound_applies() -> None:
    own = Acceptance.model_validate({"suites": [{"kind": "floor", "minItems": 100}], "maxAgeSeconds": 600})
    default = Acceptance.model_validate(
        {"suites": [{"kind": "floor", "minItems": 200}], "maxAgeSeconds": 60, "sameEngine": True}
    )
    both = bar_of(own, default)
    assert [suite.min_items for suite in both.suites] == [100, 200]
    assert (both.same_engine, both.max_age) == (True, timedelta(seconds=60))
    few = judged(gate("floor", items=150), evaluated=ago(30))
    assert [*asked(few, default, **own.dump())] == ["suite a (kind floor) has 150 items, 200 are required: add items"]


def test_the_same_entry_in_both_bars_is_reported_once() -> None:
    default = Acceptance(suites=[RequiredSuite(kind="floor")])
    assert len(asked(judged(), default, suites=[{"kind": "floor"}])) == 1


KINDS = st.sampled_from(("target", "retention", "floor"))
SHARES = st.integers(0, 100).map(lambda percent: percent / 100)
NAMES = st.sampled_from(("a", "b"))


@st.composite
def bars(draw: st.DrawFn) -> Acceptance:
    """Any bar: at most one entry without a name per kind, and one per name."""
    suites = []
    for name in draw(st.sets(st.sampled_from((None, "a", "b")))):
        kind = draw(KINDS)
        bound = {"target": "min_gain", "retention": "max_delta", "floor": "minimum"}[kind]
        fields: dict[str, Any] = {"min_items": draw(st.none() | st.integers(1, 400)), bound: draw(st.none() | SHARES)}
        suites.append(RequiredSuite(kind=kind, name=name, **fields))
    return Acceptance(
        suites=suites, same_engine=draw(st.booleans()), max_age_seconds=draw(st.none() | st.integers(60, 200))
    )


GATES = st.builds(
    gate,
    KINDS,
    NAMES,
    verdict=st.sampled_from(("Pass", "NotApplicable")),
    items=st.none() | st.integers(1, 400),
    delta=st.none() | SHARES.map(lambda share: f"{share:.4f}"),
    lower=st.none() | SHARES.map(lambda share: f"{share:.4f}"),
)
VERSIONS = st.builds(
    lambda gates, engine, age: judged(*gates, engine=engine, evaluated=None if age is None else ago(age)),
    st.lists(GATES, max_size=4),
    st.sampled_from((None, OUR_ENGINE, "01234567")),
    st.none() | st.integers(0, 300),
)


@given(VERSIONS, bars(), bars())
def test_two_bars_lack_together_what_each_lacks_alone(v: Version, own: Acceptance, default: Acceptance) -> None:
    both = asked(v, default, **own.dump())
    alone = {*asked(v, **own.dump()), *asked(v, default)}
    suites = {said for said in alone if "maxAgeSeconds is" not in said}  # of two ages only the smaller one is reported
    assert suites <= {*both}
    assert bool(both) == bool(alone)


@given(VERSIONS, bars())
def test_less_evidence_is_never_better(v: Version, bar: Acceptance) -> None:
    lacked = len(asked(v, **bar.dump()))
    blind = [g.model_copy(update={"items": None, "delta": None, "lower": None}) for g in v.gates]
    for poorer in (
        replace(v, gates=()),
        replace(v, gates=tuple(blind)),
        replace(v, engine=None),
        replace(v, evaluated=None),
    ):
        assert bool(asked(poorer, **bar.dump())) >= bool(lacked)


@given(VERSIONS, bars())
def test_each_sentence_fits_into_the_status(v: Version, bar: Acceptance) -> None:
    WaitingVersion.model_validate(waiting(v, asked(v, **bar.dump())).dump())


def test_the_event_comes_once_per_version() -> None:
    held = WaitingVersion(version="v2", missing=["no suite of kind floor judged it", "too old"])
    assert message(held) == "v2 is not accepted: no suite of kind floor judged it (1 more in status.waiting)"
    situation = situation_of(service(), SETTINGS, NOW)
    (event,) = announcement(situation, held)
    assert (event.type, event.reason) == ("Warning", "NotAccepted")
    assert announcement(situation, None) == ()
    known = situation_of(service(status=InferenceServiceStatus(waiting=held)), SETTINGS, NOW)
    assert announcement(known, held) == ()
    assert announcement(known, held.model_copy(update={"version": "v3"}))


@pytest.mark.parametrize(
    ("bar", "evaluation", "fault"),
    [
        ({}, {}, None),
        ({"suites": [{"kind": "floor"}]}, {}, "needs a suite of kind floor"),
        ({"suites": [{"kind": "target", "name": "b"}]}, {}, "needs a suite b of kind target"),
        ({"suites": [{"kind": "target", "minItems": 5000}]}, {}, "maxItems of at least 5000"),
        ({"suites": [{"kind": "target", "minGain": 0.5}]}, {}, None),
        (
            {"suites": [{"kind": "retention", "maxDelta": 0.02}]},
            {"suites": [{"name": "old", "kind": "retention", "items": "data"}]},
            "delta of at most 0.02",
        ),
        ({"sameEngine": True}, {}, None),
        ({"sameEngine": True}, {"engine": {}}, None),
        ({"sameEngine": True}, OTHER, "evaluation.engine differs from spec.engine: remove it"),
    ],
)
def test_a_job_is_told_what_none_of_its_versions_could_show(bar: Obj, evaluation: Obj, fault: str | None) -> None:
    spec = JOB_SPEC | {"evaluation": JOB_SPEC["evaluation"] | evaluation}
    situation = situation_of(service({"acceptance": bar}), SETTINGS, NOW)
    found = unreachable(situation, FineTuneJobSpec.model_validate(spec))
    assert found is None if fault is None else fault in str(found)
