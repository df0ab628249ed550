"""Commands of people about a rollout, and rollouts that wait for one."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.inferenceservice import Analysis, InferenceServiceStatus, RolloutCommand
from driftloop.controller.kinds.inferenceservice.command import Action, parse_record, recorded
from driftloop.controller.kinds.inferenceservice.observed import Observed, Revision
from driftloop.controller.kinds.inferenceservice.revision import revision_of
from driftloop.controller.kinds.inferenceservice.rollout.moves import Rollout
from driftloop.controller.kinds.inferenceservice.rollout.step import next_step
from driftloop.controller.kinds.inferenceservice.situation import situation_of
from driftloop.controller.traffic import Arms
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import COMMAND, FAILED, PROMOTED, RETRY, ROLE, ROLLOUT
from driftloop.controller.vocabulary.plan import Adjust, Obj
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
GOOD, BAD, FEW = Arms(arm(2000), arm(1000)), Arms(arm(200), arm(100, 30)), Arms(arm(10), arm(10))
R2 = revision_of(service(versions=(V2,)), V2, SETTINGS)
HALF_A_MINUTE_AGO = ago(30)
ANALYSED = {"analysis_started": ago(60)}


def canary(command: str | None, candidate: Obj | None = None, spec: Obj | None = None, **parts: Any) -> Observed:
    """v1 serves with two pods, v2 is tried with one, and the annotation has this command."""
    notes = ({} if command is None else {ROLLOUT: command}) | parts.pop("annotations", {})
    observed = service(spec, notes, versions=parts.pop("versions", (V1, V2)), **parts)
    fields: Obj = {"replicas": 1, "since": ago(60)} | ANALYSED | (candidate or {})
    tried = revision(observed, V2, "candidate", fields.pop("replicas"), **fields)
    return replace(observed, revisions=(revision(observed, V1, "stable", 2), tried))


def held(since: datetime = HALF_A_MINUTE_AGO) -> Obj:
    """A candidate that Ada has paused."""
    return {"obeyed": parse_record(recorded(f"pause {R2} by Ada", since))}


def go(observed: Observed, now: datetime = NOW) -> Rollout:
    return next_step(situation_of(observed, SETTINGS, now))


def changes(observed: Observed, step: Rollout, name: str = "v2") -> list[Adjust]:
    uid = next(r.uid for r in observed.revisions if r.version == name)
    return adjusted((*step.beside, *step.actions), uid)


def command(step: Rollout) -> RolloutCommand:
    assert step.command is not None
    return step.command


def reasons(step: Rollout) -> list[str]:
    return [event.reason for event in step.events]


def test_a_pause_is_recorded_with_who_and_when_and_moves_no_pod() -> None:
    observed = canary(f"pause {R2} by Ada", arms=GOOD)
    step = go(observed)
    [note] = changes(observed, step)
    assert (note.replicas, note.labels) == (1, {})
    assert parse_record(note.annotations[COMMAND]) == held(NOW)["obeyed"]
    assert changes(observed, step, "v1") == []
    assert (step.phase, step.reason, reasons(step)) == ("Paused", "RolloutPaused", ["RolloutPaused"])
    found = command(step)
    assert (found.action, found.revision, found.by, found.obeyed) == ("pause", R2, "Ada", True)
    assert found.time == timestamp(NOW)


@pytest.mark.parametrize("arms", [GOOD, BAD, FEW, None])
@pytest.mark.parametrize("pods", [1, 0])
def test_a_paused_rollout_stays_where_it_is_without_a_deadline(arms: Arms | None, pods: int) -> None:
    observed = canary(f"pause {R2} by Ada", held() | {"available": pods, "since": ago(9000)}, arms=arms)
    step = go(observed, NOW + timedelta(days=30))
    assert (changes(observed, step), changes(observed, step, "v1"), step.events) == ([], [], ())
    assert (step.phase, step.reason) == ("Paused", "RolloutPaused")
    assert step.message.startswith("paused by Ada since ")


def test_a_paused_rollout_shows_the_figures_so_far() -> None:
    step = go(canary(f"pause {R2} by Ada", held(), arms=BAD))
    assert step.analysis is not None
    assert step.analysis.verdict == "RollBack"
    assert "So far: candidate 30 of 100 failed" in step.message


def test_a_paused_candidate_is_not_replaced_by_a_newer_version_but_by_a_pinned_one() -> None:
    observed = canary(f"pause {R2} by Ada", held(), versions=(V1, V2, V3))
    assert (go(observed).reason, changes(observed, go(observed))) == ("RolloutPaused", [])
    pinned = canary(None, held(), {"model": {"family": "desk", "version": "v3"}}, versions=(V1, V2, V3))
    [change] = changes(pinned, go(pinned))
    assert change.labels == {ROLE: "retired"}


def test_a_changed_spec_ends_a_pause() -> None:
    paused = canary(f"pause {R2} by Ada", held())
    changed = canary(f"pause {R2} by Ada", held(), {"drainSeconds": 5}, versions=(V1, V2, V3))
    changed = replace(changed, revisions=paused.revisions)
    [change] = changes(changed, go(changed))
    assert change.labels == {ROLE: "retired"}


def test_a_resumed_rollout_goes_on_and_gives_missing_pods_their_time_again() -> None:
    observed = canary(f"resume {R2} by Bob", held() | {"available": 0, "since": ago(9000)})
    step = go(observed)
    [note] = changes(observed, step)
    resumed = parse_record(note.annotations[COMMAND])
    assert (step.phase, reasons(step), command(step).by) == ("Canary", ["RolloutResumed"], "Bob")
    late = canary(f"resume {R2} by Bob", {"available": 0, "since": ago(9000), "obeyed": resumed})
    assert go(late, NOW + timedelta(seconds=599)).reason == "CandidateStarting"
    assert go(late, NOW + timedelta(seconds=601)).reason == "RolledBack"


def test_a_person_promotes_before_the_analysis_has_a_verdict() -> None:
    observed = canary(f"promote {R2} by Ada", arms=FEW)
    step = go(observed)
    [change] = changes(observed, step)
    assert (change.replicas, change.annotations[PROMOTED]) == (2, timestamp(NOW))
    assert COMMAND in change.annotations
    assert (reasons(step), command(step).obeyed) == (["RolloutPromoted"], True)
    assert "by Ada" in step.message


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"candidate": {"available": 0}}, "0 of 1 pods of v2 are ready"),
        ({"spec": {"replicas": 0}}, "0 of 0 pods of v2 are ready"),
        ({"versions": (V1, replace(V2, phase=None))}, "v2 is not known, not Approved"),
    ],
)
def test_only_an_approved_and_ready_candidate_is_promoted(parts: Any, why: str) -> None:
    if "spec" in parts:
        parts = parts | {"candidate": {"replicas": 0}}
    step = go(canary(f"promote {R2}", **parts))
    assert (command(step).obeyed, reasons(step)) == (False, ["CommandIgnored"])
    assert why in command(step).message
    assert step.reason not in ("Promoting", "RolloutPromoted")


def test_an_aborted_revision_has_failed_and_is_tried_again_by_a_retry() -> None:
    observed = canary(f"abort {R2} by Ada", arms=GOOD)
    step = go(observed)
    [change] = changes(observed, step)
    assert (change.replicas, change.labels) == (0, {ROLE: "failed"})
    assert change.annotations[FAILED] == "RolloutAborted: aborted by Ada"
    assert (step.failed, step.reason, command(step).obeyed) == ((R2,), "RolledBack", True)
    obeyed = parse_record(change.annotations[COMMAND])
    failed = replace(observed.revisions[1], role="failed", replicas=0, available=0, failed="x", obeyed=obeyed)
    again = canary(f"abort {R2} by Ada", annotations={RETRY: R2})
    again = replace(again, revisions=(again.revisions[0], failed))
    [retried] = changes(again, go(again))
    assert (retried.labels, COMMAND in retried.annotations) == ({ROLE: "candidate"}, False)
    tried = replace(again, revisions=(again.revisions[0], replace(observed.revisions[1], obeyed=obeyed)))
    assert go(tried).reason != "RolledBack"  # the annotation still says abort, and its record is on the Deployment


def test_the_only_pods_that_answer_users_are_not_aborted() -> None:
    observed = canary(f"abort {R2}", arms=GOOD)
    dead = replace(observed.revisions[0], available=0, unavailable_since=ago(5))
    step = go(replace(observed, revisions=(dead, observed.revisions[1])))
    assert "v1 has no ready pod" in command(step).message
    assert not command(step).obeyed


@pytest.mark.parametrize("text", ["paused", "pause", f"stop {R2}", "promote", "x" * 9000, "\x01" * 600])
def test_what_is_not_a_command_is_told_once(text: str) -> None:
    step = go(canary(text, arms=FEW))
    found = command(step)
    assert (found.obeyed, found.action, reasons(step)) == (False, None, ["CommandIgnored"])
    assert "pause|resume|promote|abort REVISION [at TIME] [by WHO]" in found.message
    told = canary(text, arms=FEW, status=InferenceServiceStatus(command=found))
    assert (go(told).events, go(told).command) == ((), found)


@pytest.mark.parametrize("action", get_args(Action))
def test_a_command_about_another_revision_does_nothing_and_is_told_once(action: Action) -> None:
    observed = canary(f"{action} 0123456789 by Ada", arms=FEW)
    step = go(observed)
    assert (changes(observed, step), reasons(step)) == ([], ["CommandIgnored"])
    assert f"the candidate is revision {R2} (v2)" in command(step).message
    told = replace(observed, status=InferenceServiceStatus(command=command(step)))
    assert go(told).events == ()


@pytest.mark.parametrize("action", get_args(Action))
@pytest.mark.parametrize(
    ("candidate", "why"),
    [({"promoted": ago(5), "replicas": 2}, "takes over already"), (None, "there is no candidate")],
)
def test_there_is_nothing_to_command_once_a_candidate_takes_over(
    action: Action, candidate: Obj | None, why: str
) -> None:
    observed = canary(f"{action} {R2}", candidate)
    if candidate is None:
        observed = replace(observed, revisions=observed.revisions[:1], versions=(V1,))
    assert why in command(go(observed)).message


def test_a_first_revision_takes_no_commands() -> None:
    observed = service(None, {ROLLOUT: f"abort {R2}"}, versions=(V2,))
    first = replace(observed, revisions=(revision(observed, V2, "candidate", 2, available=0),))
    assert "no revision serves yet" in command(go(first)).message


def test_a_resume_without_a_pause_does_nothing() -> None:
    assert "is not paused by a command" in command(go(canary(f"resume {R2}", arms=FEW))).message


def test_a_command_is_obeyed_once_per_value_though_the_status_is_lost() -> None:
    obeyed = parse_record(recorded(f"resume {R2} by Ada", ago(30)))
    step = go(canary(f"resume {R2} by Ada", {"obeyed": obeyed}, arms=FEW))
    found = command(step)
    assert (step.events, found.obeyed, found.time) == ((), True, timestamp(ago(30)))
    again = go(canary(f"pause {R2} by Ada", {"obeyed": obeyed}, arms=FEW))
    assert again.reason == "RolloutPaused"


def test_a_command_whose_status_was_not_written_is_shown_from_its_record() -> None:
    """The operator died between the write of the Deployment and the write of the status."""
    before = RolloutCommand(value=f"pause {R2} by Ada", time=timestamp(ago(60)), obeyed=True, message="")
    obeyed = parse_record(recorded(f"resume {R2} by Ada", ago(30)))
    observed = canary(
        f"resume {R2} by Ada", {"obeyed": obeyed}, arms=FEW, status=InferenceServiceStatus(command=before)
    )
    assert (command(go(observed)).action, go(observed).events) == ("resume", ())


def test_the_last_command_is_shown_after_the_annotation_is_gone() -> None:
    known = RolloutCommand(value="x", time=timestamp(ago(5)), obeyed=True, message="done")
    assert go(canary(None, status=InferenceServiceStatus(command=known))).command == known


def test_a_pause_ends_with_its_rollout() -> None:
    observed = canary(f"pause {R2} by Ada", annotations={RETRY: R2})
    failed = replace(observed.revisions[1], role="failed", failed="x", **held())
    known = RolloutCommand(value=f"pause {R2} by Ada", time=timestamp(ago(5)), obeyed=True, message="")
    observed = replace(
        observed, revisions=(observed.revisions[0], failed), status=InferenceServiceStatus(command=known)
    )
    [change] = changes(observed, go(observed))
    assert change.annotations[COMMAND] is None


# --- promotion: manual ---

MANUAL: Obj = {"promotion": "manual"}


def test_a_candidate_that_passed_waits_for_a_person_and_is_told_once() -> None:
    observed = canary(None, spec=MANUAL, arms=GOOD)
    step = go(observed)
    assert (changes(observed, step), step.phase, step.reason) == ([], "Paused", "AwaitingPromotion")
    assert step.message.startswith("Paused: v2 passed, waits for promote (kubectl annotate dlsvc desk --overwrite ")
    assert f"driftloop.dev/rollout='promote {R2} by NAME'" in step.message
    assert reasons(step) == ["AwaitingPromotion"]
    ready = {"type": "Ready", "status": "True", "reason": "AwaitingPromotion", "message": ""}
    told = replace(observed, service=observed.service | {"status": {"conditions": [ready]}})
    assert go(told).events == ()


def test_a_candidate_that_waits_for_a_person_is_still_rolled_back_when_it_gets_worse() -> None:
    observed = canary(None, spec=MANUAL, arms=BAD)
    assert go(observed).reason == "RolledBack"


def test_a_candidate_that_waits_keeps_waiting_between_two_checks() -> None:
    passed = Analysis(started=timestamp(ago(60)), looked=timestamp(ago(5)), verdict="Promote", message="fine")
    status = InferenceServiceStatus(phase="Paused", analysis=passed)
    assert go(canary(None, spec=MANUAL, status=status)).reason == "AwaitingPromotion"


def test_a_dead_stable_revision_is_not_replaced_without_a_person_either() -> None:
    observed = canary(None, spec=MANUAL)
    dead = replace(observed.revisions[0], available=0, unavailable_since=ago(9000))
    step = go(replace(observed, revisions=(dead, observed.revisions[1])))
    assert (step.reason, step.phase) == ("AwaitingPromotion", "Paused")


def test_a_person_promotes_what_waits() -> None:
    observed = canary(f"promote {R2} by Ada", spec=MANUAL, arms=GOOD)
    [change] = changes(observed, go(observed))
    assert PROMOTED in change.annotations


# --- what must hold whatever people and figures do ---

COMMANDS = st.sampled_from([None, *(f"{action} {R2} by {who}" for action in get_args(Action) for who in "ab")])
TICKS = st.lists(
    st.tuples(COMMANDS, st.sampled_from([None, GOOD, BAD, FEW]), st.booleans(), st.sampled_from([5, 70, 700])),
    max_size=15,
)


def applied(old: Revision, step: Rollout, now: datetime) -> Revision:
    """The candidate after the plan."""
    for change in adjusted((*step.beside, *step.actions), old.uid):
        notes = change.annotations
        role: Any = change.labels.get(ROLE, old.role)
        old = replace(old, role=role, replicas=old.replicas if change.replicas is None else change.replicas)
        old = replace(old, promoted=now if notes.get(PROMOTED) else old.promoted)
        old = replace(old, obeyed=parse_record(notes[COMMAND]) if COMMAND in notes else old.obeyed)
    return old


@examples(200)
@given(TICKS, st.booleans())
def test_nothing_moves_while_it_is_paused_and_each_value_is_obeyed_once(ticks: Any, manual: bool) -> None:
    observed = canary(None, spec=MANUAL if manual else None)
    now = NOW
    last: str | None = None
    for value, arms, loses_status, seconds in ticks:
        now += timedelta(seconds=seconds)
        notes = {} if value is None else {ROLLOUT: value}
        body = observed.service | {"metadata": observed.service["metadata"] | {"annotations": notes}}
        observed = replace(observed, service=body, arms=arms)
        before = observed.revisions[1]
        step = go(observed, now)
        after = applied(before, step, now)
        new = any(COMMAND in change.annotations for change in changes(observed, step))
        if new:
            assert value is not None
            assert value != last
            last = value
            assert command(step).value == value
        if before.is_held and not new:
            assert (after, step.phase) == (before, "Paused")
        if manual and after.promoted:
            assert last is not None
            assert last.startswith("promote")
        status = InferenceServiceStatus() if loses_status else InferenceServiceStatus(
            phase=step.phase, command=step.command, analysis=step.analysis
        )  # fmt: skip
        observed = replace(observed, revisions=(observed.revisions[0], after), status=status)
        if after.role != "candidate" or after.promoted:
            return
