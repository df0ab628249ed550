"""When a retraining starts, and what keeps it."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftloop.api.finetunejob import FineTuneJobPhase
from driftloop.api.inferenceservice import (
    AlertRecord,
    DriftStatus,
    InferenceServiceSpec,
    InferenceServiceStatus,
    RetrainingStatus,
)
from driftloop.api.modelversion import Gate, ModelVersionPhase
from driftloop.controller.kinds.inferenceservice.observed import Job, Observed, Version
from driftloop.controller.kinds.inferenceservice.retraining.history import job_name
from driftloop.controller.kinds.inferenceservice.retraining.obstacles import Decision
from driftloop.controller.kinds.inferenceservice.retraining.step import retrain, samples_since
from driftloop.controller.kinds.inferenceservice.revision import revision_of
from driftloop.controller.kinds.inferenceservice.situation import situation_of
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import APPROVE, SERVICE, TRIGGER
from driftloop.controller.vocabulary.plan import Create, Obj
from parts import examples
from unit.controller.kinds.inferenceservice.builders import (
    NOW,
    SETTINGS,
    ago,
    alert,
    job,
    retraining,
    revision,
    service,
    version,
)

V1 = version("v1", 10_000)
DRIFTED = alert("a1/1", ago(100))
ROSE = DriftStatus(version="v1", last_alarm=timestamp(ago(90)))  # the alarm that DRIFTED tells of; it is over
ON = ROSE.model_copy(update={"alarm": True})


WARNED = RetrainingStatus(warning="has no replay")


def name_of(ordinal: int, of: Version = V1) -> str:
    return job_name("desk", "uid-desk", of.uid, ordinal)


def serving(
    spec: Obj | None = None,
    alerts: tuple[AlertRecord, ...] = (DRIFTED,),
    status: dict[str, Any] | None = None,
    **parts: Any,
) -> Observed:
    """v1 has served for 600 s, there are plenty of samples, and an alert fired 100 s ago; its alarm is over."""
    found = InferenceServiceStatus(alerts=list(alerts), **({"drift": ROSE} | (status or {})))
    versions = (V1, *parts.pop("versions", ()))
    fields = {"samples": 500, "annotations": None} | parts
    observed = service(retraining(**(spec or {})), status=found, versions=versions, **fields)
    return replace(observed, revisions=(revision(observed, V1, "stable", 2), *observed.revisions))


def go(observed: Observed) -> Decision:
    return retrain(situation_of(observed, SETTINGS, NOW))


def state(decision: Decision) -> str | None:
    return decision.status.state if decision.status else None


def bodies(decision: Decision) -> list[Obj]:
    return [action.body for action in decision.actions if isinstance(action, Create)]


def test_a_service_without_retraining_has_no_status_of_it() -> None:
    assert go(service()).status is None


def test_before_there_is_a_stable_version_nothing_starts() -> None:
    observed = service(retraining(), status=InferenceServiceStatus(alerts=[DRIFTED]), versions=(V1,))
    assert state(go(observed)) == "Idle"


def test_without_an_alert_it_is_idle() -> None:
    assert state(go(serving(alerts=()))) == "Idle"


def test_an_alert_starts_a_job_made_from_the_template() -> None:
    decision = go(serving({"jobTemplate": {"metadata": {"labels": {"team": "x"}}, "spec": retraining_spec()}}))
    [body] = bodies(decision)
    assert state(decision) == "Running"
    assert body["metadata"]["name"] == name_of(0)
    assert body["metadata"]["labels"] == {"team": "x", SERVICE: "desk"}
    assert body["spec"]["data"]["feedback"]["service"] == "desk"
    assert body["metadata"]["ownerReferences"][0]["uid"] == "uid-desk"
    assert json.loads(body["metadata"]["annotations"][TRIGGER]) == {
        "kind": "Drift",
        "service": "desk",
        "alert": "DriftloopModelDrift",
        "started": timestamp(ago(100)),
    }
    assert decision.status is not None
    assert decision.status.handled_alerts == ["a1/1"]


def retraining_spec() -> Obj:
    spec: Obj = retraining()["retraining"]["jobTemplate"]["spec"]
    return spec


def test_drift_starts_no_job_whose_version_could_not_end_the_alarm() -> None:
    """A version without a gain was promoted, the alarm stood, and the next one was trained: four of them each day."""
    retention = retraining_spec() | {
        "evaluation": {"suites": [{"name": "old", "kind": "retention", "items": "replay"}]}
    }
    spec = {"jobTemplate": {"spec": retention}}
    decision = go(serving(spec))
    assert (state(decision), decision.blocked, bodies(decision)) == ("Blocked", True, [])
    assert decision.status is not None
    assert "kind target" in str(decision.status.message)
    aged = go(serving(spec | {"maxAgeSeconds": 60}, alerts=()))
    assert len(bodies(aged)) == 1  # it is not to end an alarm


OLD_ROWS = {"sources": [{"name": "old", "uri": "pvc://shared/old.csv"}]}


def without_replay() -> Obj:
    spec = retraining_spec()
    return {"jobTemplate": {"spec": spec | {"data": {"feedback": {"service": "desk"}}}}}


@pytest.mark.parametrize("alerts", [(), (DRIFTED,)])
def test_a_template_without_replay_is_warned_of_but_goes_on(alerts: tuple[AlertRecord, ...]) -> None:
    decision = go(serving(without_replay(), alerts=alerts))
    assert decision.status is not None
    assert "11.5 % of the old questions" in str(decision.status.warning)
    assert RetrainingStatus.model_validate(decision.status.dump()) == decision.status
    forgets = [event for event in decision.events if event.reason == "RetrainingForgets"]
    assert len(forgets) == 1
    assert (state(decision), len(bodies(decision))) == (("Running", 1) if alerts else ("Idle", 0))
    again = go(serving(without_replay(), alerts=alerts, status={"retraining": decision.status}))
    assert not [event for event in again.events if event.reason == "RetrainingForgets"]
    assert again.status is not None
    assert again.status.warning == decision.status.warning


def test_before_there_is_a_stable_version_it_is_warned_already() -> None:
    observed = service(retraining(**without_replay()), status=InferenceServiceStatus(), versions=(V1,))
    status = go(observed).status
    assert status is not None
    assert status.warning is not None


@pytest.mark.parametrize("fraction", [1.0, 0.0])
def test_what_says_what_it_replays_or_trains_a_new_model_is_not_warned_of(fraction: float) -> None:
    spec = retraining_spec()
    replayed = spec | {"data": {"feedback": {"service": "desk"}, "replay": OLD_ROWS | {"fraction": fraction}}}
    new = spec | {
        "model": {"from": {"config": {"architecture": {"model_type": "llama"}}}},
        "data": {"sources": OLD_ROWS["sources"]},
    }
    for template in (replayed, new):
        status = go(serving({"jobTemplate": {"spec": template}}, alerts=(), status={"retraining": WARNED})).status
        assert status is not None
        assert status.warning is None


def test_names_fit_and_differ_by_service_version_and_ordinal() -> None:
    long = "a" * 40
    names = {
        job_name(long, "u1", "v1", 0),
        job_name(long, "u2", "v1", 0),
        job_name(long, "u1", "v2", 0),
        job_name(long, "u1", "v1", 1),
    }
    assert len(names) == 4
    assert all(len(name) <= 40 for name in names)


@pytest.mark.parametrize(
    "alerts",
    [
        (alert("a1/0", ago(601)),),  # began before the promotion
        (alert("x/1", ago(100), "SomebodyElses"),),  # not named in triggers
    ],
)
def test_an_alert_that_is_not_about_what_serves_starts_nothing(alerts: tuple[AlertRecord, ...]) -> None:
    assert state(go(serving(alerts=alerts))) == "Idle"


def test_an_alert_of_others_starts_a_job_when_the_spec_names_it() -> None:
    decision = go(
        serving({"triggers": [{"alertname": "TooManyCorrections"}]}, (alert("x/1", ago(9), "TooManyCorrections"),))
    )
    assert bodies(decision)
    assert decision.status is not None
    assert decision.status.trigger == "Alert"


def test_two_alertmanagers_with_starts_of_their_own_make_one_job() -> None:
    twins = (alert("a1/1", ago(100)), alert("b7/2", ago(98)))
    first = go(serving(alerts=twins))
    assert len(bodies(first)) == 1
    done = (job(name_of(0), 90, "Succeeded", finished=ago(61), version="gone"),)
    assert bodies(go(serving({"cooldownSeconds": 0}, twins, jobs=done))) == []


def test_a_second_delivery_before_the_cache_has_the_job_makes_the_same_job() -> None:
    again = serving()
    assert bodies(go(again)) == bodies(go(again))


def test_an_alert_that_was_handled_stays_handled_when_its_job_is_deleted() -> None:
    observed = serving(status={"retraining": RetrainingStatus(handled_alerts=["a1/1"])})
    assert state(go(observed)) == "Idle"


def test_an_alarm_that_is_on_asks_whatever_was_deleted() -> None:
    """A janitor deleted the rejected job, or its version: the alert goes on firing, and does not come anew."""
    known = RetrainingStatus(version="v1", handled_alerts=["a1/1"], ordinal=1, last_finished=timestamp(ago(50)))
    deleted = serving({"cooldownSeconds": 0}, status={"retraining": known, "drift": ON})
    assert [body["metadata"]["name"] for body in bodies(go(deleted))] == [name_of(1)]
    done = job(name_of(0), 90, "Succeeded", finished=ago(61), version="gone")
    assert bodies(go(replace(deleted, jobs=(done,))))
    assert state(go(serving(status={"retraining": known, "drift": ROSE}))) == "Idle"  # the drift is over


def test_what_was_before_is_kept_when_its_jobs_are_deleted() -> None:
    known = RetrainingStatus(version="v1", ordinal=3, rejections=3, last_finished=timestamp(ago(150)))
    blocked = go(serving(status={"retraining": known, "drift": ON}))
    assert state(blocked) == "Blocked"
    resting = known.model_copy(update={"rejections": 1})
    assert state(go(serving({"cooldownSeconds": 100}, status={"retraining": resting, "drift": ON}))) == "Cooldown"
    other = known.model_copy(update={"version": "v0"})  # of the version that served before
    assert [b["metadata"]["name"] for b in bodies(go(serving(status={"retraining": other, "drift": ON})))] == [
        name_of(0)
    ]


@pytest.mark.parametrize(
    "drift",
    [
        None,
        DriftStatus(version="v1"),
        DriftStatus(version="v0", alarm=True, last_alarm=timestamp(ago(90))),
        DriftStatus(version="v1", last_alarm=timestamp(ago(500))),
    ],
    ids=["not watched", "never above", "of another version", "above long before"],
)
def test_an_alert_that_the_operators_own_evidence_does_not_bear_out_is_not_believed(drift: DriftStatus | None) -> None:
    """Whoever may write series into a shared Prometheus can make the alert fire."""
    assert state(go(serving(status={"drift": drift}))) == "Idle"


def test_an_alarm_outlives_a_new_revision_of_its_version() -> None:
    """Another engine was promoted for the same version: the alert that went on firing was older, and asked no more."""
    watched = ON.model_copy(update={"since": timestamp(ago(5000))})
    assert bodies(go(serving(alerts=(alert("a1/0", ago(700)),), status={"drift": watched})))


def test_an_alarm_that_outlived_a_promotion_asks_with_the_alert_of_before() -> None:
    held = ON.model_copy(update={"held_from": "v0"})
    assert bodies(go(serving(alerts=(alert("a1/0", ago(700)),), status={"drift": held})))


@pytest.mark.parametrize(
    "reason",
    ["NodesMissing", "DeadlineExceeded", "Evicted", "UnexpectedAdmissionError", "HeadGone", "StorageUnreadable"],
)
def test_what_the_cluster_failed_is_no_rejection_and_is_tried_again(reason: str) -> None:
    failed = job(name_of(0), 90, "Failed", finished=ago(61), reason=reason)
    decision = go(serving({"cooldownSeconds": 60, "maxRejections": 1}, status={"drift": ON}, jobs=(failed,)))
    assert decision.status is not None
    assert (decision.status.rejections, decision.status.last_ending) == (0, "Unavailable")
    assert [body["metadata"]["name"] for body in bodies(decision)] == [name_of(1)]
    rests = go(serving({"cooldownSeconds": 62}, status={"drift": ON}, jobs=(failed,)))
    assert state(rests) == "Cooldown"


@pytest.mark.parametrize("reason", ["NonFiniteLoss", "EmptyData", "OOMKilled", "PodFailurePolicy", ""])
def test_what_the_data_or_the_template_failed_counts(reason: str) -> None:
    failed = job(name_of(0), 90, "Failed", finished=ago(61), reason=reason)
    assert state(go(serving({"maxRejections": 1}, status={"drift": ON}, jobs=(failed,)))) == "Blocked"


@pytest.mark.parametrize(("reason", "rejections"), [("Unreachable", 0), ("DigestMismatch", 1)])
def test_a_version_that_could_not_be_judged_is_no_rejection_if_the_cluster_failed_it(
    reason: str, rejections: int
) -> None:
    done = job(name_of(0), 90, "Succeeded", finished=ago(61), version="v2")
    v2 = version("v2", 60, "Failed", reason=reason, judged=ago(40), job_uid=done.uid)
    decision = go(serving({"cooldownSeconds": 0}, status={"drift": ON}, jobs=(done,), versions=(v2,)))
    assert decision.status is not None
    assert decision.status.rejections == rejections


def test_an_alert_of_others_whose_training_could_not_be_had_asks_again() -> None:
    spec = {"triggers": [{"alertname": "TooManyCorrections"}], "cooldownSeconds": 0}
    asked = alert("x/1", ago(100), "TooManyCorrections")
    failed = job(name_of(0), 90, "Failed", finished=ago(61), reason="NodesMissing")
    known = {"retraining": RetrainingStatus(version="v1", handled_alerts=["x/1"], ordinal=1)}
    assert bodies(go(serving(spec, (asked,), status=known, jobs=(failed,))))
    rejected_job = replace(failed, reason="NonFiniteLoss")
    assert state(go(serving(spec, (asked,), status=known, jobs=(rejected_job,)))) == "Idle"


def test_a_wiped_status_starts_nothing_twice() -> None:
    done = job(name_of(0), 90, "Succeeded", finished=ago(61), version="gone")
    assert bodies(go(serving({"cooldownSeconds": 0}, jobs=(done,)))) == []


@pytest.mark.parametrize("phase", [None, "Pending", "Preparing", "Planning", "Training", "Suspended"])
def test_while_a_job_is_at_work_nothing_starts(phase: FineTuneJobPhase | None) -> None:
    decision = go(serving(jobs=(job("somebodys-job", 500, phase),)))
    assert state(decision) == "Running"
    assert bodies(decision) == []


@pytest.mark.parametrize("phase", [None, "Pending", "Evaluating", "Approved"])
def test_a_job_is_in_flight_until_its_version_is_judged_and_rolled_out(phase: ModelVersionPhase | None) -> None:
    v2 = version("v2", 50, phase, job_uid=f"uid-{name_of(0)}")
    done = job(name_of(0), 90, "Succeeded", finished=ago(60), version="v2")
    assert state(go(serving(jobs=(done,), versions=(v2,)))) == "Running"


def test_a_job_whose_version_is_not_seen_yet_is_in_flight() -> None:
    done = job(name_of(0), 90, "Succeeded", finished=ago(5), version="v2")
    assert state(go(serving(jobs=(done,)))) == "Running"


def test_a_retrained_version_that_no_suite_judged_is_turned_down() -> None:
    v2 = version("v2", 50, "AwaitingApproval", judged=ago(40), job_uid=f"uid-{name_of(0)}")
    done = job(name_of(0), 90, "Succeeded", finished=ago(60), version="v2")
    decision = go(serving(jobs=(done,), versions=(v2,)))
    assert decision.status is not None
    assert (decision.status.rejections, decision.status.job) == (1, None)


def rejected(n: int, age: float) -> tuple[Job, Version]:
    found = job(name_of(n), age + 50, "Succeeded", finished=ago(age + 10), version=f"r{n}")
    return found, version(f"r{n}", age + 10, "Rejected", judged=ago(age), job_uid=found.uid)


def drifting(*turned_down: tuple[Job, Version], **spec: Any) -> Observed:
    """The alarm is still on, and these candidates were turned down."""
    return serving(
        {"cooldownSeconds": 100} | spec,
        status={"drift": ON},
        jobs=tuple(j for j, _ in turned_down),
        versions=tuple(v for _, v in turned_down),
    )


@pytest.mark.parametrize(("age", "expected"), [(150, "Cooldown"), (199, "Cooldown"), (201, "Running")])
def test_a_rejection_doubles_the_cooldown_and_then_the_same_alert_asks_again(age: float, expected: str) -> None:
    observed = drifting(rejected(0, age))
    before = observed.status.model_copy(update={"alerts": [alert("a1/1", ago(500))]})
    decision = go(replace(observed, status=before))
    assert state(decision) == expected
    if expected == "Running":
        assert bodies(decision)[0]["metadata"]["name"] == name_of(1)


def test_a_rejection_ends_it_when_the_drift_is_gone() -> None:
    observed = drifting(rejected(0, 300))
    calm = observed.status.model_copy(update={"alerts": [alert("a1/1", ago(500))], "drift": ROSE})
    assert state(go(replace(observed, status=calm))) == "Idle"


@pytest.mark.parametrize(("count", "expected"), [(2, "Running"), (3, "Blocked")])
def test_rejections_in_a_row_open_the_breaker(count: int, expected: str) -> None:
    turned_down = [rejected(n, 5000 + n) for n in range(count)]
    decision = go(drifting(*turned_down, maxRejections=3, maxJobsPerDay=100))
    assert state(decision) == expected
    assert decision.blocked is (expected == "Blocked")


def test_failed_jobs_and_rolled_back_versions_count_as_rejections() -> None:
    failed = job(name_of(0), 5000, "Failed", finished=ago(4900))
    done = job(name_of(1), 4000, "Succeeded", finished=ago(3900), version="v2")
    v2 = version("v2", 3900, job_uid=done.uid)
    observed = serving({"maxRejections": 2}, jobs=(failed, done), versions=(v2,))
    status = observed.status.model_copy(update={"failed_revisions": [revision_of(observed, v2, SETTINGS)]})
    decision = go(replace(observed, status=status))
    assert decision.status is not None
    assert decision.status.rejections == 2
    assert decision.status.state == "Blocked"


def test_a_promotion_closes_the_breaker_again() -> None:
    turned_down = [rejected(n, 9000 + n) for n in range(3)]
    v2 = version("v2", 700, job_uid="uid-other")
    observed = drifting(*turned_down)
    promoted = replace(
        observed,
        status=observed.status.model_copy(update={"drift": ON.model_copy(update={"version": "v2"})}),
        versions=(*observed.versions, v2),
        revisions=(revision(observed, v2, "stable", 2),),
        spec=observed.spec,
    )
    decision = go(promoted)
    assert decision.status is not None
    assert decision.status.rejections == 0
    assert [body["metadata"]["name"] for body in bodies(decision)] == [name_of(0, v2)]


def test_the_days_budget_keeps_it_back() -> None:
    done = [job(f"old-{n}", 3600 * (n + 1), "Failed", finished=ago(3500)) for n in range(4)]
    decision = go(serving(jobs=tuple(done)))
    assert state(decision) == "Cooldown"
    assert "4 of 4" in str(decision.status and decision.status.message)


@pytest.mark.parametrize(
    ("samples", "message"),
    [(0, "Waiting: 0/10 samples"), (9, "Waiting: 9/10 samples"), (None, "Waiting: ?/10 samples")],
)
def test_it_waits_for_enough_samples(samples: int | None, message: str) -> None:
    decision = go(serving(samples=samples))
    assert state(decision) == "Waiting"
    assert str(decision.status and decision.status.message).startswith(message)


def test_a_job_that_learns_from_files_alone_needs_no_samples() -> None:
    spec = retraining_spec() | {"data": {"sources": [{"name": "new", "uri": "pvc://shared/new.csv"}]}}
    assert bodies(go(serving({"jobTemplate": {"spec": spec}}, samples=None)))


def test_samples_count_from_the_estimated_change() -> None:
    drift = ROSE.model_copy(update={"change_point": timestamp(ago(200))})
    assert samples_since(situation_of(serving(status={"drift": drift}), SETTINGS, NOW)) == ago(200)
    assert samples_since(situation_of(serving(), SETTINGS, NOW)) == ago(600)
    assert samples_since(situation_of(serving(alerts=()), SETTINGS, NOW)) is None


def test_manual_approval_waits_for_the_annotation_with_the_proposals_name() -> None:
    manual = {"approval": "manual"}
    waiting = go(serving(manual))
    assert state(waiting) == "AwaitingApproval"
    assert waiting.status is not None
    assert f"{APPROVE}={name_of(0)}" in str(waiting.status.message)
    assert [event.reason for event in waiting.events] == ["RetrainingProposed", "RetrainingForgets"]
    assert not bodies(go(serving(manual, annotations={APPROVE: "another"})))
    assert bodies(go(serving(manual, annotations={APPROVE: name_of(0)})))


def test_an_old_version_is_retrained_without_any_alert() -> None:
    decision = go(serving({"maxAgeSeconds": 9000}, alerts=()))
    [body] = bodies(decision)
    assert json.loads(body["metadata"]["annotations"][TRIGGER])["kind"] == "MaxAge"
    assert not bodies(go(serving({"maxAgeSeconds": 10_001}, alerts=())))


def test_since_is_when_it_was_first_asked_for() -> None:
    before = RetrainingStatus(state="Waiting", trigger="Drift", alert_key="a1/1", since=timestamp(ago(80)))
    decision = go(serving(status={"retraining": before}, samples=1))
    assert decision.status is not None
    assert decision.status.since == timestamp(ago(80))


MANY_ITEMS: Obj = {"suites": [{"kind": "target", "minItems": 400}]}


def not_accepted(n: int, age: float) -> tuple[Job, Version]:
    """A version that its gates approved, with fewer items than the service requires."""
    found, made = rejected(n, age)
    gate = Gate(name="new", kind="target", verdict="Pass", message="", items=300)
    return found, replace(made, phase="Approved", gates=(gate,))


def with_bar(observed: Observed, bar: Obj = MANY_ITEMS) -> Observed:
    raw = observed.spec.dump() | {"acceptance": bar}
    return replace(observed, spec=InferenceServiceSpec.model_validate(raw))


def test_a_version_that_the_service_does_not_take_ends_its_retraining_as_a_rejection() -> None:
    decision = go(with_bar(drifting(not_accepted(0, 150))))
    assert decision.status is not None
    assert (decision.status.state, decision.status.last_ending) == ("Cooldown", "NotAccepted")
    assert decision.status.rejections == 1
    assert state(go(drifting(not_accepted(0, 150)))) == "Running"  # without a bar it is rolled out


def test_a_version_that_is_tried_already_is_in_flight_though_the_bar_was_raised() -> None:
    observed = with_bar(drifting(not_accepted(0, 150)))
    tried = revision(observed, observed.versions[-1], "candidate", 1)
    decision = go(replace(observed, revisions=(*observed.revisions, tried)))
    assert decision.status is not None
    assert (decision.status.state, decision.status.rejections) == ("Running", 0)


def with_git(observed: Observed) -> Observed:
    """The service with what serves pinned in Git."""
    raw = observed.spec.dump()
    raw |= {"approval": "git", "model": raw["model"] | {"version": observed.versions[0].name}}
    return replace(observed, spec=InferenceServiceSpec.model_validate(raw))


def test_a_version_that_is_not_committed_ends_its_retraining_as_a_rejection() -> None:
    decision = go(with_git(drifting(not_accepted(0, 150))))
    assert decision.status is not None
    assert (decision.status.last_ending, decision.status.rejections) == ("NotAccepted", 1)


@pytest.mark.parametrize("held", [with_bar, with_git])
def test_versions_that_are_never_accepted_are_trained_a_bounded_number_of_times(
    held: Callable[[Observed], Observed],
) -> None:
    """The alarm stays on for a month, and whatever is trained has too few items, or is committed by nobody."""
    done: list[tuple[Job, Version]] = []
    status: dict[str, Any] = {"drift": ON}
    for hour in range(24 * 30):
        now = NOW + timedelta(hours=hour)
        observed = held(replace(drifting(*done, maxRejections=3), status=InferenceServiceStatus(**status)))
        observed = replace(observed, status=observed.status.model_copy(update={"alerts": [DRIFTED]}))
        decision = retrain(situation_of(observed, SETTINGS, now))
        status["retraining"] = decision.status
        for body in bodies(decision):
            _, made = not_accepted(len(done), 0)
            found = Job(body["metadata"]["name"], f"uid-{len(done)}", now, "Succeeded", finished=now)
            done.append((found, replace(made, created=now, judged=now, job_uid=found.uid)))
    assert len(done) == 3
    assert decision.status is not None
    assert (decision.status.state, decision.blocked) == ("Blocked", True)
    assert "status.waiting" in str(decision.status.message)


def test_a_job_none_of_whose_versions_could_be_accepted_is_not_started() -> None:
    decision = go(with_bar(serving(), {"suites": [{"kind": "floor", "name": "anchor"}]}))
    assert (state(decision), decision.blocked, bodies(decision)) == ("Blocked", True, [])
    assert decision.status is not None
    wanted = "jobTemplate.spec.evaluation.suites needs a suite anchor of kind floor"
    assert wanted in str(decision.status.message)


# --- what must hold whatever happens ---

EVENTS = st.sampled_from(["alert", "again", "wipe", "reject", "fail", "approve", "promote", "delete", "time", "look"])


class Loop:
    """Plays everybody else: Alertmanager, the jobs and their versions, and an API server that keeps what is created."""

    def __init__(self) -> None:
        self.now = NOW
        self.stable, self.since = V1, ago(600)
        self.served = {V1.name}
        self.jobs: list[Job] = []
        self.versions: list[Version] = [V1]
        self.status = InferenceServiceStatus()
        self.counter = 0
        self.alarmed: Any = None  # when the operator last saw its own alarm

    def observed(self) -> Observed:
        found = service(
            retraining(cooldownSeconds=60, maxJobsPerDay=1000),
            status=self.status.model_copy(update={"drift": self.drift()}),
            versions=tuple(self.versions),
            jobs=tuple(self.jobs),
            samples=500,
        )
        return replace(found, revisions=(revision(found, self.stable, "stable", 2, since=self.since),))

    def drift(self) -> DriftStatus | None:
        """An alarm that rose with the last alert and is over."""
        return DriftStatus(version=self.stable.name, last_alarm=timestamp(self.alarmed)) if self.alarmed else None

    def look(self) -> None:
        decision = retrain(situation_of(self.observed(), SETTINGS, self.now))
        for body in bodies(decision):
            assert not [j for j in self.jobs if not self.is_over(j)], "a second job while one is in flight"
            if body["metadata"]["name"] not in {j.name for j in self.jobs}:
                uid = f"uid-{len(self.jobs)}-{body['metadata']['name']}"
                self.jobs.append(Job(body["metadata"]["name"], uid, self.now, "Training"))
        self.status = self.status.model_copy(update={"retraining": decision.status})

    def is_over(self, found: Job) -> bool:
        made = [v for v in self.versions if v.job_uid == found.uid]
        return found.phase == "Failed" or any(v.phase == "Rejected" or v.name in self.served for v in made)

    def happen(self, event: str) -> None:
        self.now += timedelta(seconds=7)
        open_jobs = [j for j in self.jobs if not self.is_over(j)]
        if event == "alert":
            self.counter += 1
            self.alarmed = self.now
            self._record(alert(f"f/{self.counter}", self.now))
        elif event == "again" and self.status.alerts:
            self._record(self.status.alerts[-1])
        elif event == "wipe":
            self.status = InferenceServiceStatus(alerts=self.status.alerts)
        elif event == "time":
            self.now += timedelta(hours=30)
        elif event == "delete" and self.jobs and not open_jobs:
            self.jobs.pop()
        elif event in ("reject", "fail", "approve", "promote") and open_jobs:
            self._end(open_jobs[0], event)

    def _record(self, record: AlertRecord) -> None:
        kept = [a for a in self.status.alerts if a.key != record.key]
        self.status = self.status.model_copy(update={"alerts": [*kept, record][-64:]})

    def _end(self, found: Job, event: str) -> None:
        phase: FineTuneJobPhase = "Failed" if event == "fail" else "Succeeded"
        self.jobs[self.jobs.index(found)] = replace(found, phase=phase, finished=self.now)
        if event == "fail":
            return
        self.versions = [v for v in self.versions if v.job_uid != found.uid]
        judged: ModelVersionPhase = "Rejected" if event == "reject" else "Approved"
        made = replace(
            version(f"m{len(self.jobs)}-{len(self.versions)}"),
            created=self.now,
            judged=self.now,
            phase=judged,
            job_uid=found.uid,
        )
        self.versions.append(made)
        if event == "promote":
            self.stable, self.since = made, self.now
            self.served.add(made.name)


@examples(200)
@given(st.lists(EVENTS, max_size=40))
@example(["alert", "promote", "alert", "time", "promote", "time", "alert"])
def test_never_two_in_flight_and_looking_twice_changes_nothing(events: list[str]) -> None:
    loop = Loop()
    for event in events:
        loop.happen(event)
        loop.look()
        jobs = list(loop.jobs)
        loop.look()  # a second delivery, a second reconcile
        assert loop.jobs == jobs


@examples(100)
@given(st.lists(st.sampled_from(["again", "wipe", "look"]), max_size=20))
def test_one_alert_makes_one_job_however_often_it_is_delivered(events: list[str]) -> None:
    loop = Loop()
    loop.happen("alert")
    loop.look()
    for event in events:
        loop.happen(event)
        loop.look()
    loop.happen("promote")
    for event in events:
        loop.happen(event)
        loop.look()
    assert len(loop.jobs) == 1
