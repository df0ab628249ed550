"""The moves of a service that falls asleep and wakes, in the whole plan."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.inferenceservice import InferenceServiceStatus, SleepState, SleepStatus
from driftloop.contract.activity import Activity
from driftloop.controller.kinds.inferenceservice.decide import decide
from driftloop.controller.kinds.inferenceservice.door import door_deployment, door_name, leads_to_door
from driftloop.controller.kinds.inferenceservice.idle import Requests
from driftloop.controller.kinds.inferenceservice.observed import Observed, Revision, Sleep
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp
from driftloop.controller.vocabulary.labels import SERVICE, SLEEP, STAGE
from driftloop.controller.vocabulary.plan import Adjust, Apply, Create, Delete, Obj, Plan
from parts import examples
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
    own = seen("desk", selector)
    door = door_deployment(observed, SETTINGS) | {"status": {"availableReplicas": 1}}
    door["metadata"]["uid"] = "uid-door"
    return replace(
        observed, revisions=(stable,), services=(own, seen("desk-pods", {SERVICE: "desk", STAGE: "serve"})), door=door
    )


def seen(name: str, selector: Obj) -> Obj:
    """A Service of the service."""
    metadata = {"name": name, "namespace": "team", "uid": f"uid-{name}"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": selector}}


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
    assert "can't sleep" in status(found).conditions[0].message
    assert plan(observed, Requests((QUIET, Activity(running=0, idle_seconds=50)), (EMPTY,))).requeue_after == 10


def test_a_door_whose_way_to_the_pods_belongs_to_another_owner_gets_no_requests() -> None:
    observed = serving()
    without = replace(observed, services=observed.services[:1])
    found = plan(without)
    assert moves(found, observed) == []
    assert "another owner" in status(found).conditions[0].message


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
        ("Deployment", door_name(awake.service)),
        ("Service", "desk-pods"),
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


def test_a_service_whose_pods_can_not_start_is_left_for_another_version_after_the_deadline() -> None:
    """It waited for ever for pods whose image was gone, whatever was set."""
    waking = serving("Waking", 700, versions=(V1, V2))
    broken = replace(waking, revisions=(replace(waking.revisions[0], problem="ImagePullBackOff"),))
    assert moves(plan(broken, None), broken) == [(2, None)]
    early = serving("Waking", 100, versions=(V1, V2))
    assert moves(plan(early, None), early) == []


@pytest.mark.parametrize("state", [None, "Closing", "Asleep", "Waking"])
def test_nothing_is_written_twice(state: SleepState | None) -> None:
    """With the same facts, each plan of a state that lasts leaves the Deployment alone."""
    observed = serving(state, 1)
    busy = Requests((Activity(running=1, idle_seconds=0),) * 2, (EMPTY,))
    requests = {None: busy, "Closing": ALL_QUIET, "Asleep": Requests((), (EMPTY,)), "Waking": None}[state]
    assert moves(plan(observed, requests), observed) == []


class Simulated:
    """A cluster around the decisions. Pods are ready two steps after they were wanted; a step takes two seconds."""

    def __init__(self) -> None:
        self.observed, self.now, self.last = serving(), NOW, NOW
        self.came: datetime | None = None  # the last request at the door
        self.held = self.starting = 0

    @property
    def stable(self) -> Revision:
        return self.observed.revisions[0]

    @property
    def is_at_door(self) -> bool:
        return leads_to_door(self.observed)

    def request(self) -> None:
        """A request, by the Service. It must find a pod, or the door."""
        if self.is_at_door:
            self.came = self.now
            self.held += not self.stable.available
        else:
            assert self.stable.available, "the Service leads to pods that are not there"
        if self.stable.available:
            self.last = self.now

    def operate(self, writes: int) -> None:
        """A reconcile that is killed after so many writes."""
        idle = Activity(running=0, idle_seconds=(self.now - self.last).total_seconds())
        since = None if self.came is None else (self.now - self.came).total_seconds()
        door = Activity(running=self.held, held=self.held, idle_seconds=0 if self.held else since)
        requests = Requests((idle,) * self.stable.available, (door,))
        found = decide(replace(self.observed, requests=requests), SETTINGS, self.now)
        for action in found.writes[:writes]:
            match action:
                case Adjust(replicas=replicas, annotations=notes):
                    self.adjust(self.stable.replicas if replicas is None else replicas, notes)
                case Apply(body) if (body["kind"], body["metadata"]["name"]) == ("Service", "desk"):
                    self.observed = replace(self.observed, services=(body, self.observed.services[1]))
        if writes >= len(found.writes):
            self.observed = replace(self.observed, status=InferenceServiceStatus.model_validate(found.status))

    def adjust(self, replicas: int, notes: dict[str, str | None]) -> None:
        if replicas < self.stable.available:
            assert self.is_at_door, "pods are taken away while the Service leads to them"
            assert self.now - self.last >= timedelta(seconds=60), "pods are taken away that are not idle"
        self.starting = 2 if replicas > self.stable.replicas else self.starting
        word, _, since = (notes.get(SLEEP) or "").partition(" ")
        mark = Sleep(word, parse_timestamp(since)) if word else None  # type: ignore[arg-type]
        sleep = mark if SLEEP in notes else self.stable.sleep
        available = min(self.stable.available, replicas)
        changed = replace(self.stable, replicas=replicas, available=available, pods=replicas, sleep=sleep)
        self.observed = replace(self.observed, revisions=(changed,))

    def wait(self) -> None:
        """Two seconds pass."""
        self.now += timedelta(seconds=2)
        self.starting = max(0, self.starting - 1)
        if not self.starting and self.stable.available < self.stable.replicas:
            # A pod that has just started is not idle.
            self.last, self.held = self.now, 0
            self.observed = replace(self.observed, revisions=(replace(self.stable, available=self.stable.replicas),))


@examples(200)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12), st.booleans()), max_size=25))
def test_every_request_finds_a_pod_or_the_door_whenever_the_operator_is_killed(
    steps: list[tuple[int, int, bool]],
) -> None:
    """Each step: so many pauses, a reconcile that is killed after some writes, whether a request comes."""
    cluster = Simulated()
    for pauses, writes, comes in steps:
        for _ in range(pauses):
            cluster.wait()
            cluster.operate(99)
        cluster.operate(writes)
        if comes:
            cluster.request()
    for _ in range(10):
        cluster.wait()
        cluster.operate(99)
    assert cluster.held == 0, "requests wait at the door, and no pod starts"


def test_the_simulated_service_sleeps_and_wakes() -> None:
    cluster = Simulated()
    seen = []
    for step in range(60):
        cluster.wait()
        cluster.operate(99)
        if step == 45:
            cluster.request()
        seen.append(cluster.stable.sleep.state if cluster.stable.sleep else "Awake")
    assert list(dict.fromkeys(seen)) == ["Awake", "Closing", "Asleep", "Waking"]
    assert (seen[-1], cluster.is_at_door, cluster.held) == ("Awake", False, 0)
