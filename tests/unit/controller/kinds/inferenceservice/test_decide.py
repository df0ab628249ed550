"""One plan of it all: order of actions, phases, conditions, columns."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from driftloop.api.inferenceservice import DriftStatus, InferenceServiceSpec, InferenceServiceStatus, RetrainingStatus
from driftloop.controller.kinds.inferenceservice.decide import decide, traffic
from driftloop.controller.kinds.inferenceservice.observed import Observed
from driftloop.controller.kinds.inferenceservice.retraining.history import job_name
from driftloop.controller.traffic import Arms
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import ROLE
from driftloop.controller.vocabulary.plan import Action, Adjust, Apply, Create, Obj, Plan
from unit.controller.kinds.inferenceservice.builders import (
    NOW,
    SETTINGS,
    ago,
    alert,
    arm,
    job,
    retraining,
    revision,
    service,
    version,
)

V1, V2 = version("v1", 300), version("v2", 200)


def plan(observed: Observed) -> Plan:
    return decide(observed, SETTINGS, NOW)


def status(observed: Observed) -> Obj:
    found = plan(observed).status
    assert found is not None
    InferenceServiceStatus.model_validate(found)
    return found


def conditions(observed: Observed) -> dict[str, tuple[str, str]]:
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in status(observed)["conditions"]}


def serving(spec: Obj | None = None, available: int = 2, **parts: Any) -> Observed:
    observed = service(spec, versions=(V1,), **parts)
    return replace(observed, revisions=(revision(observed, V1, "stable", 2, available=available),))


def trying(**parts: Any) -> Observed:
    observed = service(versions=(V1, V2), **parts)
    stable = revision(observed, V1, "stable", 2)
    return replace(observed, revisions=(stable, revision(observed, V2, "candidate", 1, analysis_started=ago(60))))


def test_an_engine_without_an_image_rolls_nothing_out_and_what_serves_goes_on() -> None:
    observed = serving()
    raw = observed.service["spec"] | {"engine": {"type": "vllm"}}
    changed = replace(observed, spec=InferenceServiceSpec.model_validate(raw), versions=(V1, V2))
    assert [action for action in plan(changed).actions if isinstance(action, Create | Adjust)] == []
    found = status(changed)
    assert (found["phase"], found["stable"]["version"]) == ("Serving", "v1")
    assert conditions(changed)["Ready"] == ("True", "EngineNotPossible")
    assert conditions(changed)["Stalled"] == ("True", "EngineNotPossible")
    [stalled] = [entry for entry in found["conditions"] if entry["type"] == "Stalled"]
    assert "spec.engine.type vllm needs an image" in stalled["message"]
    configured = decide(changed, replace(SETTINGS, vllm_image="vllm:1"), NOW)
    assert any(isinstance(action, Create) for action in configured.actions)


@pytest.mark.parametrize("template", ["\u554f" * 32_768, "$" * 32_768])
def test_a_template_that_no_pod_can_get_rolls_nothing_out_and_what_serves_is_scaled(template: str) -> None:
    observed = serving()
    raw = observed.service["spec"] | {"engine": {"chatTemplate": template}, "replicas": 3}
    changed = replace(observed, spec=InferenceServiceSpec.model_validate(raw), versions=(V1, V2))
    assert conditions(changed)["Stalled"] == ("True", "EngineNotPossible")
    written = [action for action in plan(changed).actions if isinstance(action, Create | Adjust)]
    assert [(type(action), getattr(action, "replicas", None)) for action in written] == [(Adjust, 3)]


def test_a_first_revision_waits_for_the_image_of_its_engine() -> None:
    observed = service({"engine": {"type": "vllm"}}, versions=(V1,))
    assert kinds(plan(observed).actions) == ["NetworkPolicy", "Service"]
    assert conditions(observed)["Stalled"] == ("True", "EngineNotPossible")


def test_the_status_names_the_engine_that_runs() -> None:
    observed = serving()
    observed = replace(observed, revisions=(replace(observed.revisions[0], engine="vllm"),))
    assert status(observed)["stable"]["engine"] == "vllm"


def kinds(actions: Iterable[Action]) -> list[str]:
    return [action.body["kind"] for action in actions if isinstance(action, Apply | Create)]


def test_the_policy_and_the_service_come_before_the_first_pods_and_nothing_else_holds_them_up() -> None:
    found = plan(service({"feedback": {"storage": "pvc://shared/feedback"}}, versions=(V1,)))
    assert kinds(found.actions) == ["NetworkPolicy", "Service", "Secret", "Deployment"]
    assert [kinds(group.actions) for group in found.beside if group.actions] == [["Service"], ["PodDisruptionBudget"]]


def test_stable_gets_the_pods_that_it_lacks_though_the_candidate_can_not_be_rolled_back() -> None:
    observed = trying(arms=Arms(arm(200), arm(100, 50)))
    stable, candidate = observed.revisions
    found = plan(replace(observed, revisions=(replace(stable, replicas=1), candidate)))
    assert [action.uid for action in found.actions if isinstance(action, Adjust)] == [candidate.uid]
    assert [a.uid for group in found.beside for a in group.actions if isinstance(a, Adjust)] == [stable.uid]


def test_without_feedback_there_is_no_feedback_service() -> None:
    names = [action.body["metadata"]["name"] for action in plan(service()).writes if isinstance(action, Apply)]
    assert "desk-feedback" not in names
    assert "desk" in names


def test_a_service_that_serves_is_ready() -> None:
    observed = serving()
    found = status(observed)
    assert conditions(observed) == {"Ready": ("True", "Serving")}
    assert (found["phase"], found["traffic"], found["url"]) == (
        "Serving",
        "100/0",
        "http://desk.team.svc.cluster.local",
    )
    assert found["stable"]["version"] == "v1"
    assert found["selector"] == "driftloop.dev/service=desk,driftloop.dev/stage=serve"
    assert found["replicas"] == 2
    assert found["observedGeneration"] == 3


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (service(), {"Ready": ("False", "NoApprovedVersion"), "Reconciling": ("True", "NoApprovedVersion")}),
        (service(versions=(V1,)), {"Ready": ("False", "Deploying"), "Reconciling": ("True", "Deploying")}),
        (serving(available=1), {"Ready": ("False", "PodsNotReady"), "Reconciling": ("True", "PodsNotReady")}),
        (trying(), {"Ready": ("True", "Analysing"), "Reconciling": ("True", "Analysing")}),
        (
            serving({"model": {"family": "desk", "version": "v9"}}),
            {"Ready": ("True", "VersionNotFound"), "Stalled": ("True", "VersionNotFound")},
        ),
    ],
)
def test_conditions_tell_programs_where_it_stands(observed: Observed, expected: dict[str, tuple[str, str]]) -> None:
    assert conditions(observed) == expected


def test_a_transition_time_stays_while_the_status_stays() -> None:
    observed = serving()
    since = "2026-01-01T00:00:00Z"
    before = {"type": "Ready", "status": "True", "reason": "Serving", "message": "", "lastTransitionTime": since}
    body = observed.service | {"status": {"conditions": [before]}}
    [ready] = status(replace(observed, service=body))["conditions"]
    assert ready["lastTransitionTime"] == since


def test_traffic_is_the_share_of_ready_pods() -> None:
    observed = trying()
    assert status(observed)["traffic"] == "67/33"
    assert traffic(None, None) is None


def test_a_wiped_status_moves_no_traffic() -> None:
    for observed in (serving(), trying(arms=None)):
        wiped = replace(observed, status=InferenceServiceStatus())
        moved = [a for a in plan(wiped).writes if isinstance(a, Adjust | Create)]
        assert moved == []
        found = status(wiped)
        assert found["stable"]["version"] == "v1"


def test_a_rollback_is_in_status_and_the_stable_version_stays() -> None:
    bad = Arms(arm(200), arm(100, 50))
    observed = trying(arms=bad)
    found = status(observed)
    assert found["failedRevisions"] == [observed.revisions[1].revision]
    assert "candidate" not in found
    assert found["analysis"]["verdict"] == "RollBack"
    [change] = [a for a in plan(observed).writes if isinstance(a, Adjust)]
    assert change.labels == {ROLE: "failed"}


def test_an_alert_creates_the_job_in_the_same_plan_that_says_so() -> None:
    rose = DriftStatus(version="v1", alarm=True, last_alarm=timestamp(ago(9)))
    observed = serving(
        retraining(), status=InferenceServiceStatus(alerts=[alert("a/1", ago(10))], drift=rose), samples=99
    )
    found = plan(observed)
    assert [a.body["kind"] for a in found.writes if isinstance(a, Create)] == ["FineTuneJob"]
    assert found.status is not None
    assert found.status["retraining"]["state"] == "Running"
    [group] = [group for group in found.beside if group.fields == ("retraining",)]
    assert [event.reason for event in group.events] == ["RetrainingStarted", "RetrainingForgets"]


def test_a_job_that_is_refused_is_asked_for_again_and_counts_as_no_retraining() -> None:
    rose = DriftStatus(version="v1", alarm=True, last_alarm=timestamp(ago(9)))
    known = InferenceServiceStatus(alerts=[alert("a/1", ago(10))], drift=rose)
    [group] = [group for group in plan(serving(retraining(), status=known, samples=99)).beside if group.undone]
    undone = group.undone["retraining"]
    assert (undone["state"], undone["ordinal"], undone["handledAlerts"]) == ("Waiting", 0, [])
    assert "ChildrenRefused" in undone["message"]
    again = known.model_copy(update={"retraining": RetrainingStatus.model_validate(undone)})
    found = plan(serving(retraining(), status=again, samples=99))
    assert [a.body["kind"] for a in found.writes if isinstance(a, Create)] == ["FineTuneJob"]


def test_an_open_breaker_is_a_stalled_condition_of_a_service_that_is_ready() -> None:
    observed = serving(
        retraining(maxRejections=1),
        status=InferenceServiceStatus(
            alerts=[alert("a/1", ago(10))],
            drift=DriftStatus(version="v1", alarm=True, last_alarm=timestamp(ago(9))),
        ),
    )
    failed = job(job_name("desk", "uid-desk", V1.uid, 0), 200, "Failed", finished=ago(100))
    found = conditions(replace(observed, jobs=(failed,)))
    assert found == {"Ready": ("True", "Serving"), "Stalled": ("True", "RetrainingBlocked")}


def test_a_secret_that_is_gone_is_made_again() -> None:
    observed = serving(available=1)
    lacking = replace(observed.revisions[0], problem="CreateContainerConfigError: secret not found")
    found = plan(replace(observed, revisions=(lacking,)))
    assert [a.body["kind"] for a in found.writes if isinstance(a, Create)] == ["Secret"]


def test_drift_is_watched_from_the_moment_a_version_is_stable() -> None:
    found = plan(serving())
    assert found.status is not None
    assert found.status["drift"]["version"] == "v1"
    assert found.status["drift"]["consumedUntil"] == timestamp(NOW)
    assert found.requeue_after == 10


def test_a_plan_for_a_settled_service_changes_nothing_when_it_is_made_again() -> None:
    observed = serving()
    first = status(observed)
    again = replace(
        observed,
        service=observed.service | {"status": first},
        status=InferenceServiceStatus.model_validate(first),
    )
    assert status(again) == first


def test_a_refused_child_stands_beside_the_chain_so_that_it_stops_no_rollback() -> None:
    found = plan(serving())
    assert not [action for action in found.actions if isinstance(action, Apply)]
    refusable = [kinds(group.actions) for group in found.beside if kinds(group.actions)]
    assert refusable == [["NetworkPolicy"], ["Service"], ["PodDisruptionBudget"]]


def test_a_version_that_is_not_accepted_is_shown_with_what_it_lacks_and_told_once() -> None:
    observed = serving({"acceptance": {"suites": [{"kind": "floor"}]}})
    observed = replace(observed, versions=(V1, V2))
    found = status(observed)
    assert found["waiting"]["version"] == "v2"
    assert "no suite of kind floor" in found["waiting"]["missing"][0]
    assert conditions(observed)["Ready"] == ("True", "NotAccepted")
    assert "Stalled" not in conditions(observed)
    assert [event.reason for event in plan(observed).events] == ["NotAccepted"]
    told = replace(observed, status=InferenceServiceStatus.model_validate(found))
    assert plan(told).events == ()
    accepted = replace(told, spec=serving().spec)
    assert "waiting" not in status(accepted)
