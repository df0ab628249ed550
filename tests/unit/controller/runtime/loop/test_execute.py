"""What executing writes is tested against a real API server; here is what needs none."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from driftloop.api.finetunejob import FineTuneJobStatus
from driftloop.api.inferenceservice import InferenceServiceStatus
from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.kube.events import Recorder
from driftloop.controller.runtime.loop.execute import (
    PATIENCE,
    Executor,
    Halted,
    Refusal,
    Stale,
    adjustment,
    with_refusals,
)
from driftloop.controller.runtime.loop.refusals import Refusals
from driftloop.controller.vocabulary.plan import Adjust, Apply, Create, Event, Group, Key, Obj, Plan, independent
from driftloop.controller.vocabulary.reasons import Reason

LIVE: Any = {
    "metadata": {"labels": {"role": "stable", "keep": "1"}, "annotations": {"note": "x"}},
    "spec": {"replicas": 2},
}


def test_an_adjustment_holds_what_differs_and_nothing_else() -> None:
    action = Adjust("ns", "d", "uid", 3, {"role": "candidate", "keep": "1"}, {"note": None, "gone": None})
    assert adjustment(action, LIVE) == {
        "metadata": {"labels": {"role": "candidate"}, "annotations": {"note": None}},
        "spec": {"replicas": 3},
    }


def test_what_is_as_wanted_needs_no_patch() -> None:
    assert adjustment(Adjust("ns", "d", "uid", 2, {"role": "stable"}, {"note": "x"}), LIVE) == {}
    assert adjustment(Adjust("ns", "d", "uid"), LIVE) == {}


NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Key("FineTuneJob", "team", "one")
PARENT: Obj = {
    "apiVersion": "driftloop.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "one", "namespace": "team", "uid": "u", "resourceVersion": "1", "generation": 2},
    "spec": {},
}


class Server:
    """An API server that refuses what a test says, and keeps what it was sent."""

    def __init__(self, refuses: Callable[[Obj], ApiError | None]) -> None:
        self.refuses = refuses
        self.asked: list[str] = []
        self.written: list[str] = []
        self.read: list[str] = []
        self.status: Obj = {}

    async def get(self, resource: Any, namespace: str, name: str) -> None:
        self.read.append(name)

    async def create(self, resource: Any, body: Obj) -> Obj:
        return self._take(body)

    async def apply(self, resource: Any, body: Obj, **more: Any) -> Obj:
        return self._take(body)

    async def merge(self, resource: Any, namespace: str, name: str, patch: Obj, subresource: str | None = None) -> Obj:
        self.status = patch["status"]
        return PARENT | {"status": patch["status"]}

    def _take(self, body: Obj) -> Obj:
        self.asked.append(body["kind"])
        if error := self.refuses(body):
            raise error
        self.written.append(body["kind"])
        return body | {"metadata": body["metadata"] | {"uid": f"uid-{body['kind']}", "resourceVersion": "5"}}


class Told:
    """Keeps the Events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def record(self, parent: Obj, event: Event) -> None:
        self.events.append(event)


def child(kind: str, version: str) -> Obj:
    owner = {"apiVersion": "x", "kind": "FineTuneJob", "name": "one", "uid": "u", "controller": True}
    metadata = {"name": kind.lower(), "namespace": "team", "ownerReferences": [owner]}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": {}}


PLAN = Plan(
    beside=independent((Apply(child("PodDisruptionBudget", "policy/v1")), Apply(child("Service", "v1")))),
    actions=(Create(child("Deployment", "apps/v1")),),
    status={"phase": "Training", "conditions": []},
)


def refusing(kind: str, error: ApiError) -> Callable[[Obj], ApiError | None]:
    return lambda body: error if body["kind"] == kind else None


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def executor(server: Server, told: Told, clock: Clock | None = None) -> Executor:
    refusals = Refusals(clock or Clock(), lambda: 0.0)
    return Executor(cast(Api, server), Caches(), cast(Recorder, told), lambda obj: None, lambda: NOW, refusals)


FORBIDDEN = ApiError(403, "Forbidden", "a policy says no")
CONFLICT = ApiError(409, "Conflict", "conflict", ({"reason": "FieldManagerConflict", "field": "spec", "message": "x"},))


@pytest.mark.parametrize(("error", "reason"), [(FORBIDDEN, "ApiRefused"), (CONFLICT, "FieldConflict")])
async def test_what_is_refused_beside_the_chain_stops_nothing_and_is_a_condition_of_its_own(
    error: ApiError, reason: str
) -> None:
    server, told = Server(refusing("PodDisruptionBudget", error)), Told()
    done = await executor(server, told).execute(PARENT, PLAN, FineTuneJobStatus)
    assert (done.wrote, done.refused) == (True, True)
    assert server.written == ["Service", "Deployment"]
    [condition] = server.status["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("ChildrenRefused", "True", reason)
    assert server.status["phase"] == "Training"
    assert [event.reason for event in told.events] == [reason]


async def test_a_refusal_is_told_once_and_its_condition_goes_with_it() -> None:
    server, told = Server(refusing("Service", FORBIDDEN)), Told()
    await executor(server, told).execute(PARENT, PLAN, FineTuneJobStatus)
    known = PARENT | {"status": server.status}
    await executor(server, told).execute(known, PLAN, FineTuneJobStatus)
    assert len(told.events) == 1
    healed = Server(lambda body: None)
    done = await executor(healed, told).execute(known, PLAN, FineTuneJobStatus)
    assert not done.refused
    assert healed.status == {"conditions": []}


async def test_what_passes_by_itself_is_tried_again_and_told_to_nobody() -> None:
    server, told = Server(refusing("Service", ApiError(503, "Unavailable", "later"))), Told()
    done = await executor(server, told).execute(PARENT, PLAN, FineTuneJobStatus)
    assert done.refused
    assert (server.status["phase"], server.status["conditions"]) == ("Training", [])
    assert told.events == []


@pytest.mark.parametrize("kind", ["Service", "Deployment"])
async def test_what_is_refused_is_asked_for_less_and_less_often_however_often_the_plan_comes(kind: str) -> None:
    server, clock = Server(refusing(kind, FORBIDDEN)), Clock()
    works = executor(server, Told(), clock)
    asked = []
    for second in range(20):
        clock.seconds, before = second, server.asked.count(kind)
        with contextlib.suppress(Halted):
            assert (await works.execute(PARENT, PLAN, FineTuneJobStatus)).refused
        asked += [second] * (server.asked.count(kind) - before)
    assert asked == [0, 1, 2, 4, 8, 16]
    assert works.ask_again(KEY) == 13


async def test_what_is_no_longer_refused_or_wanted_is_waited_for_no_more() -> None:
    server, clock = Server(refusing("Service", FORBIDDEN)), Clock()
    works = executor(server, Told(), clock)
    await works.execute(PARENT, PLAN, FineTuneJobStatus)
    assert works.ask_again(KEY) == 0.5
    await works.execute(PARENT, Plan(status=PLAN.status), FineTuneJobStatus)
    assert works.ask_again(KEY) is None
    await works.execute(PARENT, PLAN, FineTuneJobStatus)
    clock.seconds, server.refuses = 1, lambda body: None
    await works.execute(PARENT, PLAN, FineTuneJobStatus)
    assert works.ask_again(KEY) is None


def test_a_status_that_is_kept_as_it_was_keeps_no_refusal_that_is_over() -> None:
    """An ended job's conditions are carried on as they are."""
    kept = PLAN
    for refusals in ([Refusal(Reason.API_REFUSED, "no")], [Refusal(Reason.API_REFUSED, "never")], []):
        status, _ = with_refusals(PARENT, kept, refusals, NOW)
        assert status is not None
        assert [entry["message"] for entry in status["conditions"]] == [refusal.message for refusal in refusals]
        kept = replace(PLAN, status=status)


async def test_a_changed_spec_is_asked_for_at_once() -> None:
    server = Server(refusing("Service", FORBIDDEN))
    works = executor(server, Told())
    await works.execute(PARENT, PLAN, FineTuneJobStatus)
    changed = PARENT | {"metadata": PARENT["metadata"] | {"generation": 3}}
    await works.execute(changed, PLAN, FineTuneJobStatus)
    assert server.asked.count("Service") == 2


async def test_other_content_is_asked_for_at_once() -> None:
    """A route that was refused with a candidate's weight must not delay the one without it."""
    server = Server(lambda body: ApiError(422, "Invalid", "weight") if body["spec"] else None)
    found = executor(server, Told())
    bodies = [child("Service", "v1") | {"spec": {"weight": weight}} for weight in (10, 10)] + [child("Service", "v1")]
    for body in bodies:
        plan = Plan(beside=independent((Apply(body),)), status={"phase": "Training", "conditions": []})
        await found.execute(PARENT, plan, FineTuneJobStatus)
    assert server.asked == ["Service", "Service"]
    assert server.written == ["Service"]


async def test_what_should_pass_by_itself_is_reported_when_it_lasts() -> None:
    """A webhook that can't be called is an internal error of the API server's, for as long as nobody repairs it."""
    server, clock = Server(refusing("Service", ApiError(500, "InternalError", "failed calling webhook"))), Clock()
    works = executor(server, Told(), clock)
    reported = []
    for clock.seconds in range(0, 300 * PATIENCE, 300):
        await works.execute(PARENT, PLAN, FineTuneJobStatus)
        reported.append([entry["reason"] for entry in server.status["conditions"]])
    assert reported == [*[[]] * (PATIENCE - 1), ["ApiRefused"]]


async def test_who_is_turned_away_asks_for_nothing_else() -> None:
    server = Server(refusing("Service", ApiError(429, "TooManyRequests", "slow down")))
    works = executor(server, Told())
    for _ in range(2):
        with pytest.raises(ApiError):
            await works.execute(PARENT, PLAN, FineTuneJobStatus)
    assert server.asked == ["PodDisruptionBudget", "Service"] * 2
    assert (server.status, works.ask_again(KEY)) == ({}, None)


async def test_what_is_stale_ends_the_plan_before_anything_else_is_written() -> None:
    server = Server(refusing("PodDisruptionBudget", ApiError(409, "Conflict", "another uid")))
    with pytest.raises(Stale):
        await executor(server, Told()).execute(PARENT, PLAN, FineTuneJobStatus)
    assert (server.written, server.status) == ([], {})
    assert server.read == ["poddisruptionbudget"] * 2  # before the write, and to see why


async def test_the_chain_stops_where_it_fails() -> None:
    server = Server(refusing("Deployment", FORBIDDEN))
    with pytest.raises(Halted):
        await executor(server, Told()).execute(PARENT, PLAN, FineTuneJobStatus)
    assert server.written == ["PodDisruptionBudget", "Service"]
    assert server.status == {}


GROUPED = Plan(
    beside=(
        Group((), ("drift",), events=(Event("Warning", "DriftDetected", "it has"),)),
        Group(
            (Create(child("ModelVersion", "driftloop.dev/v1alpha1")),),
            ("retraining",),
            {"retraining": {"state": "Waiting"}},
            (Event("Normal", "RetrainingStarted", "begun"),),
        ),
    ),
    actions=(Create(child("Deployment", "apps/v1")),),
    status={"phase": "Serving", "conditions": [], "drift": {"alarm": True}, "retraining": {"state": "Running"}},
    events=(Event("Normal", "Promoted", "done"),),
)


async def test_a_refused_group_leaves_its_own_words_in_the_status_and_tells_no_event_of_its_success() -> None:
    server, told = Server(refusing("ModelVersion", FORBIDDEN)), Told()
    done = await executor(server, told).execute(PARENT, GROUPED, InferenceServiceStatus)
    assert done.refused
    assert server.written == ["Deployment"]
    assert (server.status["phase"], server.status["retraining"]["state"]) == ("Serving", "Waiting")
    assert [event.reason for event in told.events] == ["Promoted", "DriftDetected", "ApiRefused"]


async def test_a_halted_chain_hands_on_what_holds_whatever_became_of_it() -> None:
    server = Server(refusing("Deployment", FORBIDDEN))
    with pytest.raises(Halted) as halted:
        await executor(server, Told()).execute(PARENT, GROUPED, InferenceServiceStatus)
    assert server.written == ["ModelVersion"]
    assert halted.value.kept == {"drift": {"alarm": True}, "retraining": {"state": "Running"}}
    assert [event.reason for event in halted.value.events] == ["DriftDetected", "RetrainingStarted"]
    assert halted.value.error is FORBIDDEN
