"""The moves of a service that falls asleep and wakes, in the whole plan."""

from dataclasses import replace
from typing import Any

import pytest

from driftloop.api.inferenceservice import InferenceServiceStatus, SleepState, SleepStatus
from driftloop.contract.activity import Activity
from driftloop.controller.kinds.inferenceservice.decide import decide
from driftloop.controller.kinds.inferenceservice.door import door_deployment
from driftloop.controller.kinds.inferenceservice.idle import Requests
from driftloop.controller.kinds.inferenceservice.observed import Observed, Sleep
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import SERVICE, SLEEP, STAGE
from driftloop.controller.vocabulary.plan import Adjust, Apply, Create, Delete, Obj, Plan
from unit.controller.kinds.inferenceservice.builders import (
    NOW,
    SETTINGS,
    adjusted,
    ago,
    revision,
    service,
    version,
)

V1, V2 = version("v1", 300), version("v2", 200)
SPEC: Obj = {"scaleToZero": {"idleSeconds": 60, "holdSeconds": 120}}
QUIET, EMPTY = Activity(running=0, idle_seconds=60), Activity(running=0)
HOLDS = Activity(running=3, held=3, idle_seconds=0)
ALL_QUIET = Requests((QUIET, QUIET), (EMPTY,))


def serving(state: SleepState | None = None, seconds: float = 30, spec: Obj | None = SPEC, **parts: Any) -> Observed:
    """The service with v1, awake or in `state` since so many seconds, and its ready door."""
    observed = service(spec, versions=parts.pop("versions", (V1,)), **parts)
    pods = 0 if state == "Asleep" else 2
    stable = revision(
        observed,
        V1,
        "stable",
        pods,
        available=0 if state == "Waking" else pods,
        sleep=Sleep(state, ago(seconds)) if state else None,
    )
    selector = {SERVICE: "desk", STAGE: "door" if state else "serve"}
    own = {"metadata": {"name": "desk", "namespace": "team", "uid": "uid"}, "spec": {"selector": selector}}
    door = door_deployment(observed, SETTINGS) | {"status": {"availableReplicas": 1}}
    door["metadata"]["uid"] = "uid-door"
    return replace(observed, revisions=(stable,), services=(own | {"apiVersion": "v1", "kind": "Service"},), door=door)


def plan(observed: Observed, requests: Requests | None = ALL_QUIET) -> Plan:
    return decide(replace(observed, requests=requests), SETTINGS, NOW)


def moves(found: Plan, observed: Observed) -> list[tuple[int | None, str | None]]:
    """The number of pods and the mark that stable gets."""
    actions = adjusted(found.writes, observed.revisions[0].uid)
    return [(action.replicas, action.annotations.get(SLEEP, "-")) for action in actions]


def selector(found: Plan, name: str = "desk") -> Obj | None:
    """What the Service is made to select."""
    bodies = [action.body for action in found.writes if isinstance(action, Apply)]
    services = {body["metadata"]["name"]: body["spec"] for body in bodies if body["kind"] == "Service"}
    return services[name]["selector"] if name in services else None


def status(found: Plan) -> InferenceServiceStatus:
    return InferenceServiceStatus.model_validate(found.status)


def test_an_idle_service_first_leads_all_requests_to_the_door() -> None:
    observed = serving()
    found = plan(observed)
    assert moves(found, observed) == [(None, f"Closing {timestamp(NOW)}")]
    assert selector(found) == {SERVICE: "desk", STAGE: "serve"}
    closing = serving("Closing", 2)
    found = plan(closing)
    assert moves(found, closing) == []
    assert selector(found) == {SERVICE: "desk", STAGE: "door"}
    assert selector(found, "desk-pods") == {SERVICE: "desk", STAGE: "serve"}
    assert (status(found).phase, found.requeue_after) == ("Serving", 1)


def test_then_it_loses_its_pods_and_says_since_when_it_sleeps() -> None:
    closing = serving("Closing", 6)
    found = plan(closing)
    assert moves(found, closing) == [(0, f"Asleep {timestamp(NOW)}")]
    assert [event.reason for event in found.events] == ["Asleep"]
    asleep = serving("Asleep", 30)
    found = plan(asleep, Requests((), (EMPTY,)))
    assert moves(found, asleep) == []
    assert found.requeue_after == 2
    read = status(found)
    assert (read.phase, read.replicas, read.traffic) == ("Asleep", 0, None)
    assert read.sleep == SleepStatus(state="Asleep", since=timestamp(ago(30)))
    [ready] = read.conditions
    assert (ready.type, ready.status, ready.reason) == ("Ready", "True", "Asleep")
    assert timestamp(ago(30)) in ready.message


def test_pods_stay_until_the_service_is_seen_to_lead_to_the_door() -> None:
    closing = serving("Closing", 60)
    before = replace(closing, services=serving().services)
    found = plan(before)
    assert (moves(found, before), selector(found)) == ([], {SERVICE: "desk", STAGE: "door"})


def test_a_request_at_the_door_starts_all_pods_and_the_door_keeps_the_requests_until_one_is_ready() -> None:
    asleep = serving("Asleep", spec=SPEC | {"replicas": 3})
    found = plan(asleep, Requests((), (HOLDS,)))
    assert moves(found, asleep) == [(3, f"Waking {timestamp(NOW)}")]
    [event] = found.events
    assert (event.reason, "3 requests wait" in event.message) == ("Waking", True)
    waking = serving("Waking")
    found = plan(waking, None)
    assert (moves(found, waking), selector(found)) == ([], {SERVICE: "desk", STAGE: "door"})
    read = status(found)
    conditions = {entry.type: (entry.status, entry.reason) for entry in read.conditions}
    assert read.phase == "Waking"
    assert conditions == {"Ready": ("False", "Waking"), "Reconciling": ("True", "Waking")}
    ready = replace(waking, revisions=(replace(waking.revisions[0], available=1),))
    found = plan(ready, None)
    assert moves(found, ready) == [(2, None)]
    assert [event.reason for event in found.events] == ["Awake"]


def test_a_request_while_it_closes_opens_it_again() -> None:
    closing = serving("Closing", 4)
    found = plan(closing, Requests((QUIET, QUIET), (HOLDS,)))
    assert moves(found, closing) == [(2, None)]
    assert status(found).sleep is None


def test_a_pod_that_cannot_be_asked_keeps_it_awake() -> None:
    observed = serving()
    found = plan(observed, Requests((QUIET, None), (EMPTY,)))
    assert (moves(found, observed), status(found).phase) == ([], "Serving")
    assert plan(observed, Requests((QUIET, Activity(running=0, idle_seconds=50)), (EMPTY,))).requeue_after == 10


def test_a_door_that_is_silent_for_a_minute_wakes_it() -> None:
    asleep = serving("Asleep", 600)
    silent = Requests((), (None,))
    found = plan(asleep, silent)
    sleep = status(found).sleep
    assert sleep is not None
    assert (moves(found, asleep), sleep.unheard_since) == ([], timestamp(NOW))
    known = InferenceServiceStatus(
        sleep=SleepStatus(state="Asleep", since=sleep.since, unheard_since=timestamp(ago(60)))
    )
    found = plan(replace(asleep, status=known), silent)
    assert moves(found, asleep) == [(2, f"Waking {timestamp(NOW)}")]
    assert "does not answer" in found.events[0].message
    heard = status(plan(replace(asleep, status=known), Requests((), (EMPTY,)))).sleep
    assert heard is not None
    assert heard.unheard_since is None


def test_a_version_that_is_approved_while_it_sleeps_waits_and_the_condition_says_so() -> None:
    asleep = serving("Asleep", versions=(V1, V2))
    found = plan(asleep, Requests((), (EMPTY,)))
    assert [action for action in found.writes if isinstance(action, Create | Adjust)] == []
    assert "v2" in status(found).conditions[0].message
    assert "when the service is awake" in status(found).conditions[0].message


def test_a_service_with_a_rollout_does_not_close_and_one_that_closes_opens_for_it() -> None:
    observed = serving(versions=(V1, V2))
    candidate = revision(observed, V2, "candidate", 1, analysis_started=ago(60))
    trying = replace(observed, revisions=(*observed.revisions, candidate))
    found = plan(trying)
    assert moves(found, trying) == []
    assert status(found).phase == "Canary"
    closing = serving("Closing", 60, versions=(V1, V2))
    assert moves(plan(closing), closing) == [(2, None)]


def test_without_the_setting_a_sleeping_service_wakes_before_its_door_goes() -> None:
    asleep = serving("Asleep", spec=None)
    found = plan(asleep, None)
    assert moves(found, asleep) == [(2, f"Waking {timestamp(NOW)}")]
    assert selector(found) == {SERVICE: "desk", STAGE: "door"}
    assert [action for action in found.writes if isinstance(action, Delete)] == []
    awake = serving(spec=None)
    found = plan(awake, None)
    assert selector(found) == {SERVICE: "desk", STAGE: "serve"}
    assert {(gone.kind, gone.name) for gone in found.writes if isinstance(gone, Delete)} == {
        ("Deployment", "desk-" + awake.door["metadata"]["name"].removeprefix("desk-"))  # type: ignore[index]
    }


def test_an_autoscaler_may_change_the_number_of_pods_while_it_sleeps() -> None:
    asleep = serving("Asleep", spec=SPEC | {"replicas": 5})
    assert moves(plan(asleep, Requests((), (EMPTY,))), asleep) == []


def test_a_service_that_wakes_for_longer_than_the_deadline_needs_a_person() -> None:
    waking = serving("Waking", 700)
    broken = replace(waking, revisions=(replace(waking.revisions[0], problem="Unschedulable: no GPUs"),))
    read = status(plan(broken, None))
    conditions = {entry.type: entry for entry in read.conditions}
    assert (read.phase, conditions["Stalled"].reason) == ("Waking", "ProgressDeadlineExceeded")
    assert "no GPUs" in conditions["Stalled"].message


@pytest.mark.parametrize("state", [None, "Closing", "Asleep", "Waking"])
def test_nothing_is_written_twice(state: SleepState | None) -> None:
    """With the same facts, each plan of a state that lasts leaves the Deployment alone."""
    observed = serving(state, 1)
    busy = Requests((Activity(running=1, idle_seconds=0),) * 2, (EMPTY,))
    requests = {None: busy, "Closing": ALL_QUIET, "Asleep": Requests((), (EMPTY,)), "Waking": None}[state]
    assert moves(plan(observed, requests), observed) == []
