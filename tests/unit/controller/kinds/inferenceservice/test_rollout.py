"""Every transition of a rollout, and what must hold in all of them."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.inferenceservice import Analysis, InferenceServiceStatus
from driftloop.controller.kinds.inferenceservice.observed import Observed, Revision
from driftloop.controller.kinds.inferenceservice.questions import arms_due
from driftloop.controller.kinds.inferenceservice.revision import revision_of
from driftloop.controller.kinds.inferenceservice.rollout.moves import Rollout, canary_size
from driftloop.controller.kinds.inferenceservice.rollout.step import next_step
from driftloop.controller.kinds.inferenceservice.situation import situation_of
from driftloop.controller.traffic import Arms
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import ANALYSIS, FAILED, PROMOTED, RETRIED, RETRY, ROLE, SINCE
from driftloop.controller.vocabulary.plan import Action, Adjust, Create, Delete
from parts import examples
from unit.controller.kinds.inferenceservice.builders import (
    NOW,
    SETTINGS,
    adjusted,
    ago,
    arm,
    revision,
    service,
    version,
)

V1, V2, V3 = version("v1", 300), version("v2", 200), version("v3", 100)
GOOD = Arms(arm(2000), arm(1000))
BAD = Arms(arm(200), arm(100, 30))


def go(observed: Observed) -> Rollout:
    return next_step(situation_of(observed, SETTINGS, NOW))


def canary(candidate: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **parts: Any) -> Observed:
    """v1 serves with two pods, v2 is tried with one that is ready."""
    observed = service(spec, parts.pop("annotations", None), versions=(V1, V2), **parts)
    stable = revision(observed, V1, "stable", 2)
    fields: dict[str, Any] = {"replicas": 1, "since": ago(60)} | (candidate or {})
    return replace(observed, revisions=(stable, revision(observed, V2, "candidate", fields.pop("replicas"), **fields)))


def moves(step: Rollout) -> tuple[Action, ...]:
    """All of them, in their order."""
    return (*step.beside, *step.actions)


def of(observed: Observed, step: Rollout, name: str) -> Adjust:
    [found] = adjusted(moves(step), next(r.uid for r in observed.revisions if r.version == name))
    return found


def test_without_a_version_it_waits() -> None:
    step = go(service())
    assert (step.phase, step.reason, moves(step)) == ("Pending", "NoApprovedVersion", ())


def test_the_first_version_comes_with_all_replicas_and_its_keys_before_it() -> None:
    step = go(service(versions=(V1,)))
    assert step.phase == "Deploying"
    kinds = [action.body["kind"] for action in moves(step) if isinstance(action, Create)]
    assert kinds == ["Secret", "Deployment"]
    assert isinstance(step.actions[1], Create)
    assert step.actions[1].body["spec"]["replicas"] == 2


def test_the_first_version_becomes_stable_with_its_first_ready_pod() -> None:
    observed = service(versions=(V1,))
    observed = replace(observed, revisions=(revision(observed, V1, "candidate", 2, available=1),))
    step = go(observed)
    assert step.phase == "Serving"
    assert of(observed, step, "v1").labels == {ROLE: "stable"}


def test_a_first_version_that_does_not_start_goes_on_trying_and_says_why() -> None:
    observed = service(versions=(V1,))
    pending = revision(observed, V1, "candidate", 2, available=0, since=ago(4000), problem="ImagePullBackOff: no such")
    step = go(replace(observed, revisions=(pending,)))
    assert (step.phase, step.blocked, moves(step)) == ("Degraded", True, ())
    assert "ImagePullBackOff" in step.message


def test_a_first_candidate_whose_engine_is_changed_is_withdrawn_so_that_its_version_is_evaluated_again() -> None:
    v1 = version("v1", 300)
    before = service(versions=(v1,))
    changed = service({"acceptance": {"sameEngine": True}, "engine": {"args": ["--new"]}}, versions=(v1,))
    observed = replace(changed, revisions=(revision(before, v1, "candidate", 2, available=0),))
    step = go(observed)
    assert (step.phase, step.reason, step.candidate) == ("Pending", "NotAccepted", None)
    assert of(observed, step, "v1").labels == {ROLE: "retired"}


def test_a_settled_service_does_nothing() -> None:
    observed = service(versions=(V1,))
    step = go(replace(observed, revisions=(revision(observed, V1, "stable", 2),)))
    assert (step.phase, moves(step), step.events) == ("Serving", (), ())


def test_replicas_follow_the_spec() -> None:
    observed = service({"replicas": 5}, versions=(V1,))
    observed = replace(observed, revisions=(revision(observed, V1, "stable", 2),))
    assert of(observed, go(observed), "v1").replicas == 5


@pytest.mark.parametrize(("replicas", "size"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_a_candidate_has_half_of_the_replicas(replicas: int, size: int) -> None:
    assert canary_size(replicas) == size


def test_a_new_version_comes_beside_stable() -> None:
    observed = service({"replicas": 4}, versions=(V1, V2))
    observed = replace(observed, revisions=(revision(observed, V1, "stable", 4),))
    step = go(observed)
    [deployment] = [a.body for a in moves(step) if isinstance(a, Create) and a.body["kind"] == "Deployment"]
    assert step.phase == "Canary"
    assert deployment["spec"]["replicas"] == 2
    assert deployment["metadata"]["labels"][ROLE] == "candidate"
    assert not adjusted(moves(step), observed.revisions[0].uid)


def test_the_analysis_starts_when_both_arms_are_ready() -> None:
    observed = canary()
    assert of(observed, go(observed), "v2").annotations == {ANALYSIS: "2026-03-01T12:00:00Z"}


@pytest.mark.parametrize("arm", ["v1", "v2"])
def test_the_analysis_waits_for_an_arm_that_is_not_ready(arm: str) -> None:
    observed = canary()
    waiting = tuple(replace(r, available=0) if r.version == arm else r for r in observed.revisions)
    step = go(replace(observed, revisions=waiting))
    assert step.phase == "Canary"
    assert moves(step) == ()


def test_a_good_candidate_is_scaled_up_before_stable_gives_anything() -> None:
    observed = canary({"analysis_started": ago(60)}, arms=GOOD)
    step = go(observed)
    assert of(observed, step, "v2").replicas == 2
    assert PROMOTED in of(observed, step, "v2").annotations
    assert not adjusted(moves(step), observed.revisions[0].uid)


def test_without_figures_it_never_promotes_and_pauses_in_the_end() -> None:
    assert go(canary({"analysis_started": ago(60)}, arms=None)).phase == "Canary"
    late = canary({"analysis_started": ago(4000)}, arms=None)
    step = go(late)
    assert (step.phase, moves(step)) == ("Paused", ())
    assert step.analysis is not None
    assert step.analysis.verdict == "Paused"


def test_a_paused_canary_is_looked_at_each_minute() -> None:
    """Every 5 s it asked Prometheus for all samples of days; what it knows it tells until the next look."""
    began = ago(4000)
    known = Analysis(started=timestamp(began), looked=timestamp(ago(20)), verdict="Paused", message="10 of 50")
    status = InferenceServiceStatus(phase="Paused", analysis=known)
    waiting = canary({"analysis_started": began}, arms=None, status=status)
    assert not arms_due(situation_of(waiting, SETTINGS, NOW))
    step = go(waiting)
    assert (step.phase, step.analysis, step.requeue_after) == ("Paused", known, 60)
    assert step.message == "v2 beside v1: 10 of 50"
    later = next_step(situation_of(replace(waiting, arms=GOOD), SETTINGS, NOW + timedelta(seconds=40)))
    assert later.reason == "Promoting"
    anew = canary({"analysis_started": ago(10)}, status=status)
    assert arms_due(situation_of(anew, SETTINGS, NOW))


def test_a_version_that_lost_its_verdict_is_not_promoted() -> None:
    observed = canary({"analysis_started": ago(60)}, arms=GOOD)
    unjudged = replace(observed, versions=(V1, replace(V2, phase=None)))
    step = go(unjudged)
    assert (step.phase, moves(step)) == ("Canary", ())


def test_a_worse_candidate_is_rolled_back_and_remembered() -> None:
    observed = canary({"analysis_started": ago(60)}, arms=BAD)
    step = go(observed)
    change = of(observed, step, "v2")
    assert (change.replicas, change.labels) == (0, {ROLE: "failed"})
    assert "30 of 100 failed" in str(change.annotations[FAILED])
    assert step.failed == (observed.revisions[1].revision,)
    assert [event.reason for event in step.events] == ["RolledBack"]
    assert not adjusted(moves(step), observed.revisions[0].uid)


def test_a_candidate_that_is_not_ready_in_time_is_rolled_back_with_the_pods_reason() -> None:
    observed = canary({"available": 0, "since": ago(601), "problem": "OOMKilled: container engine"})
    step = go(observed)
    assert of(observed, step, "v2").replicas == 0
    assert "OOMKilled" in step.events[0].message


@pytest.mark.parametrize("problem", ["Unschedulable: no GPU is free", "ImagePullBackOff: no such image", ""])
def test_a_candidate_that_the_cluster_has_not_started_yet_keeps_its_place(problem: str) -> None:
    """A node, an image or a slow download says nothing of the version: it is not remembered as a failure."""
    observed = canary({"available": 0, "since": ago(6001), "problem": problem, "unstarted": True})
    step = go(observed)
    assert not [change for change in adjusted(moves(step), observed.revisions[1].uid) if change.labels]
    assert (step.phase, step.reason, step.failed) == ("Canary", "ProgressDeadlineExceeded", ())
    assert problem in step.message
    assert [event.reason for event in step.events] == ["ProgressDeadlineExceeded"]
    told = {"conditions": [{"type": "Ready", "reason": "ProgressDeadlineExceeded"}]}
    assert go(replace(observed, service=observed.service | {"status": told})).events == ()


def test_a_candidate_whose_input_is_wrong_does_not_wait_for_room() -> None:
    broken = {"problem": "DigestMismatch: it was changed", "broken": True, "unstarted": True}
    observed = canary({"available": 0, "since": ago(6001)} | broken)
    assert of(observed, go(observed), "v2").labels == {ROLE: "failed"}


def test_a_candidate_whose_pods_cannot_run_is_rolled_back_at_once() -> None:
    observed = canary({"available": 0, "problem": "DigestMismatch: it was changed", "broken": True})
    change = of(observed, go(observed), "v2")
    assert (change.replicas, change.labels) == (0, {ROLE: "failed"})
    assert "DigestMismatch" in str(change.annotations[FAILED])


def test_a_first_version_whose_pods_cannot_run_is_given_up_and_says_what_to_do() -> None:
    observed = service(versions=(V1,))
    broken = revision(observed, V1, "candidate", 2, available=0, problem="PickleWeights: convert it", broken=True)
    observed = replace(observed, revisions=(broken,))
    step = go(observed)
    assert of(observed, step, "v1").labels == {ROLE: "failed"}
    after = go(applied(observed, step, NOW))
    assert (after.phase, after.reason, after.blocked, moves(after)) == ("Pending", "RevisionFailed", True, ())
    assert "PickleWeights" in after.message


def test_a_candidate_pod_lost_in_the_analysis_has_time_to_come_back() -> None:
    observed = canary({"available": 0, "since": ago(5000), "unavailable_since": ago(10), "analysis_started": ago(60)})
    assert moves(go(observed)) == ()


def test_stable_gives_up_a_pod_for_each_ready_one_of_the_promoted() -> None:
    observed = canary({"replicas": 2, "available": 1, "promoted": ago(5)})
    assert of(observed, go(observed), "v1").replicas == 1


def test_the_roles_change_when_all_pods_of_the_promoted_are_ready() -> None:
    observed = canary({"replicas": 2, "available": 2, "promoted": ago(5)})
    step = go(observed)
    new, old = of(observed, step, "v2"), of(observed, step, "v1")
    assert moves(step).index(new) < moves(step).index(old)
    assert (new.labels, new.annotations[SINCE]) == ({ROLE: "stable"}, "2026-03-01T12:00:00Z")
    assert (old.labels, old.replicas) == ({ROLE: "retired"}, 0)
    assert [event.reason for event in step.events] == ["Promoted"]


def test_of_two_stable_revisions_the_later_one_counts_and_the_other_retires() -> None:
    observed = service(versions=(V1, V2))
    old, new = revision(observed, V1, "stable", 2), revision(observed, V2, "stable", 2, since=ago(1))
    step = go(replace(observed, revisions=(old, new)))
    assert of(replace(observed, revisions=(old, new)), step, "v1").labels == {ROLE: "retired"}
    assert not adjusted(moves(step), new.uid)


def test_a_retired_deployment_is_deleted_when_its_pods_are_gone() -> None:
    observed = service(versions=(V1, V2))
    stable = revision(observed, V2, "stable", 2)
    draining = revision(observed, V1, "retired", 0, pods=1, resource_version="7")
    assert moves(go(replace(observed, revisions=(stable, draining)))) == ()
    [delete] = go(replace(observed, revisions=(stable, replace(draining, pods=0)))).beside
    assert isinstance(delete, Delete)
    assert (delete.uid, delete.resource_version) == (draining.uid, "7")  # since then it may be a candidate again


def test_a_failure_is_forgotten_when_its_version_is_older_than_what_serves() -> None:
    observed = service(versions=(V1, V2, V3))
    failed = revision(observed, V2, "failed", 0, failed="CanaryWorse")
    newer = replace(observed, revisions=(revision(observed, V3, "stable", 2), failed))
    older = replace(observed, versions=(V1, V2), revisions=(revision(observed, V1, "stable", 2), failed))
    assert [type(action) for action in moves(go(newer))] == [Delete]
    assert moves(go(older)) == ()


def test_another_candidate_takes_the_place_of_an_unfinished_one() -> None:
    observed = replace(canary(), versions=(V1, V2, V3))
    step = go(observed)
    assert of(observed, step, "v2").labels == {ROLE: "retired"}
    assert any(isinstance(action, Create) and action.body["kind"] == "Deployment" for action in moves(step))


def test_a_withdrawn_promotion_gives_stable_its_pods_back_first() -> None:
    observed = canary({"replicas": 2, "available": 1, "promoted": ago(5)})
    stable = replace(observed.revisions[0], replicas=1, available=1)
    pinned = replace(
        service({"model": {"family": "desk", "version": "v1"}}, versions=(V1, V2)),
        revisions=(stable, observed.revisions[1]),
    )
    step = go(pinned)
    assert of(pinned, step, "v1").replicas == 2
    assert not adjusted(moves(step), observed.revisions[1].uid)
    back = replace(pinned, revisions=(replace(stable, replicas=2, available=2), observed.revisions[1]))
    assert of(back, go(back), "v2").labels == {ROLE: "retired"}


def test_a_candidate_replaces_a_stable_revision_that_is_long_dead() -> None:
    observed = canary()
    dead = replace(observed.revisions[0], available=0, unavailable_since=ago(601))
    observed = replace(observed, revisions=(dead, observed.revisions[1]))
    assert PROMOTED in of(observed, go(observed), "v2").annotations


def test_a_candidate_that_was_seen_to_be_worse_replaces_no_stable_revision() -> None:
    """Stable's nodes were away for ten minutes, and the candidate that failed a third of the requests was promoted."""
    observed = canary({"analysis_started": ago(1000)}, arms=BAD)
    dead = replace(observed.revisions[0], available=0, unavailable_since=ago(601))
    step = go(replace(observed, revisions=(dead, observed.revisions[1])))
    assert (step.phase, moves(step)) == ("Canary", ())
    assert "30 of 100 failed" in step.message


def test_more_replicas_in_a_canary_do_not_make_the_candidate_late() -> None:
    """Its status is about the fewer pods of before: an old `since` must not roll it back."""
    observed = canary({"since": ago(5000), "analysis_started": ago(4000)}, {"replicas": 6})
    assert of(observed, go(observed), "v2").replicas == 3
    scaled = replace(observed.revisions[1], replicas=3, current=False)
    waiting = go(replace(observed, revisions=(replace(observed.revisions[0], replicas=6, available=6), scaled)))
    assert (waiting.reason, moves(waiting)) == ("CandidateStarting", ())


@pytest.mark.parametrize(("replicas", "size"), [(8, 4), (2, 1)])
def test_an_autoscaler_in_a_canary_changes_both_arms_in_their_ratio_and_the_analysis_goes_on(
    replicas: int, size: int
) -> None:
    observed = canary({"replicas": 2, "analysis_started": ago(60)}, {"replicas": replicas}, arms=Arms(arm(10), arm(5)))
    stable, candidate = replace(observed.revisions[0], replicas=4, available=4), observed.revisions[1]
    step = go(replace(observed, revisions=(stable, candidate)))
    found = of(observed, step, "v1"), of(observed, step, "v2")
    assert [change.replicas for change in found] == [replicas, size]
    assert [(change.labels, change.annotations) for change in found] == [({}, {})] * 2
    scaled = (
        replace(stable, replicas=replicas, available=replicas),
        replace(candidate, replicas=size, available=size),
    )
    later = go(replace(observed, revisions=scaled))
    assert (later.reason, moves(later)) == ("Analysing", ())
    assert later.analysis is not None
    assert later.analysis.started == timestamp(ago(60))


def test_the_last_ready_pods_are_never_taken_away() -> None:
    base = replace(canary({"replicas": 2, "available": 1, "since": ago(5000)}, {"replicas": 4}), versions=(V1, V2, V3))
    dead = replace(base.revisions[0], available=0, replicas=4, unavailable_since=ago(5))
    superseded = replace(base, revisions=(dead, base.revisions[1]))
    assert not adjusted(moves(go(superseded)), base.revisions[1].uid)
    late = replace(superseded, versions=(V1, V2))
    assert not adjusted(moves(go(late)), base.revisions[1].uid)
    unwanted = replace(superseded, versions=(V1, replace(V2, phase="Rejected")))
    step = go(unwanted)
    assert (step.reason, adjusted(moves(step), base.revisions[1].uid)) == ("Returning", [])


def test_a_retry_starts_afresh_and_is_used_up_by_the_next_failure() -> None:
    base = service(versions=(V1, V2))
    name = revision_of(base, V2, SETTINGS)
    stable = revision(base, V1, "stable", 2)
    failed = revision(base, V2, "failed", 0, failed="CanaryWorse", since=ago(9000))
    again = replace(service(annotations={RETRY: name}, versions=(V1, V2)), revisions=(stable, failed))
    change = of(again, go(again), "v2")
    assert (change.labels, change.annotations[FAILED]) == ({ROLE: "candidate"}, None)
    worse = canary({"analysis_started": ago(60)}, arms=BAD, annotations={RETRY: name})
    assert of(worse, go(worse), "v2").annotations[RETRIED] == "true"


def test_a_used_up_retry_is_renewed_when_the_annotation_goes() -> None:
    observed = service(versions=(V1, V2))
    failed = revision(observed, V2, "failed", 0, failed="CanaryWorse", retried=True)
    observed = replace(observed, revisions=(revision(observed, V1, "stable", 2), failed))
    assert of(observed, go(observed), "v2").annotations == {RETRIED: None}


def test_without_replicas_a_candidate_waits_for_requests() -> None:
    """A service that was scaled to 0 for the night promoted what it was about to roll back."""
    observed = canary({"analysis_started": ago(60)}, {"replicas": 0}, arms=BAD)
    step = go(observed)
    assert (of(observed, step, "v1").replicas, of(observed, step, "v2").replicas) == (0, 0)
    assert (step.phase, of(observed, step, "v2").labels) == ("Canary", {})
    promoted = canary({"replicas": 0, "promoted": ago(5)}, {"replicas": 0})
    assert of(promoted, go(promoted), "v2").labels == {ROLE: "stable"}


# --- what must hold in every rollout ---

FEW = Arms(arm(10), arm(10))
NO_LATENCY = Arms(arm(2000, p95=None), arm(1000))
TOO_FEW_TO_TELL = Arms(arm(200), arm(100))
ARMS = st.sampled_from([None, GOOD, BAD, FEW, NO_LATENCY, TOO_FEW_TO_TELL])


def applied(observed: Observed, step: Rollout, now: datetime) -> Observed:
    """The Deployments after the plan was executed: what the API server would hold."""
    found = {r.uid: r for r in observed.revisions}
    adjusted = [action.uid for action in moves(step) if isinstance(action, Adjust)]
    assert len(adjusted) == len(set(adjusted))  # the second would be refused as stale
    for action in moves(step):
        match action:
            case Create(body) if body["kind"] == "Deployment":
                new = next(
                    v for v in observed.versions if revision_of(observed, v, SETTINGS) in body["metadata"]["name"]
                )
                fresh = revision(observed, new, "candidate", body["spec"]["replicas"], available=0, since=now)
                found[fresh.uid] = fresh
            case Adjust():
                found[action.uid] = _adjusted(found[action.uid], action, now)
            case Delete():
                del found[action.uid]
    status = observed.status.model_copy(update={"failed_revisions": list(step.failed), "phase": step.phase})
    return replace(observed, revisions=tuple(found.values()), status=status)


def _adjusted(old: Revision, action: Adjust, now: datetime) -> Revision:
    assert action.resource_version == old.resource_version  # else it would overwrite what was not decided on
    role: Any = action.labels.get(ROLE, old.role)
    new = replace(old, role=role, replicas=old.replicas if action.replicas is None else action.replicas)
    names = {ANALYSIS: "analysis_started", PROMOTED: "promoted", SINCE: "since"}
    for note, value in action.annotations.items():
        if note in names:
            moment: Any = {names[note]: now if value else None}
            new = replace(new, **moment)
        elif note == FAILED:
            new = replace(new, failed=value)
        elif note == RETRIED:
            new = replace(new, retried=value is not None)
    return replace(new, available=min(new.available, new.replicas), pods=new.replicas)


@examples(150)
@given(
    replicas=st.integers(1, 4),
    ticks=st.lists(st.tuples(st.booleans(), ARMS, st.sampled_from([5, 60, 700])), min_size=1, max_size=25),
)
def test_there_never_are_fewer_ready_pods_than_wanted_in_a_rollout(
    replicas: int, ticks: list[tuple[bool, Arms | None, int]]
) -> None:
    observed = service({"replicas": replicas}, versions=(V1, V2))
    observed = replace(observed, revisions=(revision(observed, V1, "stable", replicas),))
    now = NOW
    for pod_comes, arms, seconds in ticks:
        now += timedelta(seconds=seconds)
        # Stable's pods are quick, the candidate's come one by one, as the kubelet has it.
        grown = tuple(
            replace(r, available=r.replicas)
            if r.role == "stable"
            else replace(r, available=min(r.replicas, r.available + pod_comes))
            for r in observed.revisions
        )
        observed = replace(observed, revisions=grown, arms=arms)
        step = next_step(situation_of(observed, SETTINGS, now))
        observed = applied(observed, step, now)
        serving = [r for r in observed.revisions if r.role in ("stable", "candidate")]
        assert sum(r.available for r in serving) >= replicas
        stable, candidate = observed.role("stable"), observed.role("candidate")
        assert stable is not None
        if stable.version == "v1" and not (candidate and candidate.promoted):
            assert stable.replicas == replicas
        if stable.version == "v2":
            assert stable.available == stable.replicas == replicas


PODS = st.sampled_from(["more", "none", "stable dies", "candidate dies", "v3"])


STARTS = st.sampled_from([{}, {"analysis_started": ago(60)}, {"replicas": 2, "promoted": ago(5)}])


@examples(200)
@given(start=STARTS, ticks=st.lists(st.tuples(PODS, ARMS, st.sampled_from([5, 700])), max_size=12))
def test_no_plan_takes_the_last_ready_pod(start: dict[str, Any], ticks: list[tuple[str, Arms | None, int]]) -> None:
    observed = canary(start)
    now = NOW
    for pods, arms, seconds in ticks:
        now += timedelta(seconds=seconds)
        if pods == "v3":
            observed = replace(observed, versions=(V1, V2, V3))
        observed = replace(observed, revisions=tuple(_lived(r, pods, now) for r in observed.revisions), arms=arms)
        before = sum(r.available for r in observed.revisions)
        observed = applied(observed, next_step(situation_of(observed, SETTINGS, now)), now)
        assert before == 0 or sum(r.available for r in observed.revisions) > 0


@examples(150)
@given(cuts=st.lists(st.integers(0, 3), max_size=30))
def test_a_rollout_that_is_cut_short_anywhere_ends_as_one_that_is_not(cuts: list[int]) -> None:
    """Of each plan only the first actions are done, and the status, which comes last, is lost; then it goes on."""
    observed = service(versions=(V1, V2))
    observed = replace(observed, revisions=(revision(observed, V1, "stable", 2),), arms=GOOD)
    now = NOW
    for cut in [*cuts, *[99] * 20]:
        now += timedelta(seconds=40)
        observed = replace(observed, revisions=tuple(_lived(r, "more", now) for r in observed.revisions))
        step = next_step(situation_of(observed, SETTINGS, now))
        after = applied(observed, replace(step, actions=moves(step)[:cut], beside=()), now)
        observed = after if cut == 99 else replace(after, status=observed.status)
    assert [(r.version, r.role, r.replicas) for r in observed.revisions] == [("v2", "stable", 2)]


REFUSED = st.sampled_from(["nothing", "v1", "v2", "beside"])


@examples(200)
@given(ticks=st.lists(REFUSED, max_size=12))
def test_a_rollout_whose_writes_are_refused_for_a_while_takes_no_ready_pod_and_ends_as_any_other(
    ticks: list[str],
) -> None:
    """The first refusal ends the chain, and the status stays; what stands beside it goes on."""
    observed = service(versions=(V1, V2))
    observed = replace(observed, revisions=(revision(observed, V1, "stable", 2),), arms=GOOD)
    now = NOW
    for refused in [*ticks, *["nothing"] * 20]:
        now += timedelta(seconds=40)
        observed = replace(observed, revisions=tuple(_lived(r, "more", now) for r in observed.revisions))
        step = next_step(situation_of(observed, SETTINGS, now))
        uids = {r.uid for r in observed.revisions if r.version == refused}
        hit = next((n for n, a in enumerate(step.actions) if isinstance(a, Adjust) and a.uid in uids), None)
        beside = () if refused == "beside" else tuple(a for a in step.beside if getattr(a, "uid", None) not in uids)
        after = applied(observed, replace(step, actions=step.actions[:hit], beside=beside), now)
        observed = replace(after, status=observed.status) if hit is not None else after
        assert sum(r.available for r in observed.revisions) >= 2
    assert [(r.version, r.role, r.replicas) for r in observed.revisions] == [("v2", "stable", 2)]


def _lived(old: Revision, pods: str, now: datetime) -> Revision:
    available = old.available
    if pods == "more":
        available = min(old.replicas, available + 1)
    elif pods == f"{old.role} dies":
        available = 0
    since = (old.unavailable_since or now) if available < old.replicas else None
    return replace(old, available=available, unavailable_since=since)


@examples(100)
@given(ticks=st.lists(st.sampled_from([None, FEW, NO_LATENCY, TOO_FEW_TO_TELL]), max_size=30))
def test_nothing_is_promoted_without_enough_figures(ticks: list[Arms | None]) -> None:
    observed = canary({"analysis_started": ago(60)})
    now = NOW
    for arms in ticks:
        now += timedelta(seconds=600)
        observed = replace(observed, arms=arms)
        observed = applied(observed, next_step(situation_of(observed, SETTINGS, now)), now)
        stable, candidate = observed.role("stable"), observed.role("candidate")
        assert stable is not None
        assert stable.version == "v1"
        assert candidate is not None
        assert candidate.promoted is None
