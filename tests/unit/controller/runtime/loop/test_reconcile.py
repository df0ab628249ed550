"""Complaints as conditions, and when an object is looked at again."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from driftloop.api.finetunejob import FineTuneJob, FineTuneJobStatus
from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.kube.events import Recorder
from driftloop.controller.runtime.kube.nodes import Nodes
from driftloop.controller.runtime.loop.execute import Executor
from driftloop.controller.runtime.loop.reconcile import Reconciler, Result, stalled_status
from driftloop.controller.runtime.loop.refusals import Refusals
from driftloop.controller.runtime.readings.world import World
from driftloop.controller.vocabulary.kind import Kind
from driftloop.controller.vocabulary.plan import Action, Create, Key, Obj, Plan, Settings, independent

NOTHING: Any = None


def test_a_stalled_status_keeps_the_other_fields_and_conditions() -> None:
    world = World(
        Caches(),
        NOTHING,
        Settings("t", "s"),
        Nodes(None, lambda: 0.0),
        NOTHING,
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
    )
    kept = {"type": "Degraded", "status": "True", "reason": "R", "message": "m"}
    obj = {
        "metadata": {"generation": 7},
        "status": {"phase": "Training", "conditions": [kept, kept | {"type": "Reconciling"}, kept | {"type": "Ready"}]},
    }
    found = stalled_status(obj, "NameTaken", "the name is taken", world)
    assert found["phase"] == "Training"
    assert found["observedGeneration"] == 7
    by_type = {each["type"]: each for each in found["conditions"]}
    assert set(by_type) == {"Degraded", "Ready", "Stalled"}
    assert by_type["Ready"]["status"] == "False"
    assert by_type["Stalled"]["reason"] == "NameTaken"
    assert stalled_status(obj | {"status": found}, "NameTaken", "the name is taken", world) == found


class Server:
    """Refuses to create anything, and takes no status where a test says so."""

    def __init__(self, create: ApiError | None = None, status: ApiError | None = None) -> None:
        self.errors = {"create": create, "status": status}
        self.read: list[str] = []

    async def create(self, resource: Any, body: Obj) -> Obj:
        return self._answer("create", body)

    async def merge(self, resource: Any, namespace: str, name: str, patch: Obj, subresource: str | None = None) -> Obj:
        return self._answer("status", OBJECT | {"status": patch["status"]})

    async def get(self, resource: Any, namespace: str, name: str) -> Obj:
        self.read.append(name)
        return OBJECT

    def _answer(self, what: str, body: Obj) -> Obj:
        if error := self.errors[what]:
            raise error
        return body | {"metadata": {"uid": "other", "resourceVersion": "1"} | body["metadata"]}

    async def record(self, parent: Obj, event: Any) -> None:
        """Events are taken."""


KEY = Key("FineTuneJob", "team", "one")
SPEC = {
    "model": {"from": {"uri": "pvc://shared/base"}},
    "data": {"sources": [{"name": "rows", "uri": "pvc://shared/rows.csv"}]},
    "storage": "pvc://shared/work",
    "output": {"family": "support"},
}
OBJECT: Obj = {
    "apiVersion": "driftloop.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "one", "namespace": "team", "uid": "u", "resourceVersion": "7", "generation": 1},
    "spec": SPEC,
}
JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job", "namespace": "team"}}
STATUS = {"phase": "Training", "conditions": []}


async def reconcile(server: Server, plan: Plan) -> Result:
    caches = Caches()
    caches.put(OBJECT)

    async def observe(key: Key, world: Any) -> Any:
        return "seen"

    kind = Kind(FineTuneJob, FineTuneJobStatus, observe, lambda *_: plan, NOTHING)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    refusals = Refusals(lambda: 0.0, lambda: 0.0)
    executor = Executor(cast(Api, server), caches, cast(Recorder, server), lambda obj: None, lambda: now, refusals)
    world = World(caches, NOTHING, Settings("t", "s"), NOTHING, NOTHING, now=lambda: now)
    return await Reconciler({"FineTuneJob": kind}, world, caches, executor).reconcile(KEY)


FORBIDDEN = ApiError(403, "Forbidden", "a policy says no")
BUSY = ApiError(503, "Unavailable", "later")


@pytest.mark.parametrize("error", [FORBIDDEN, BUSY])
@pytest.mark.parametrize(("wanted", "after"), [(0.2, 0.2), (5.0, 0.5), (None, 0.5)])
@pytest.mark.parametrize("beside", [True, False])
async def test_a_refusal_makes_no_look_rarer_than_the_plan_wants_it(
    beside: bool, wanted: float | None, after: float, error: ApiError
) -> None:
    action: Action = Create(JOB)
    plan = Plan((), STATUS, (), wanted, independent((action,))) if beside else Plan((action,), STATUS, (), wanted)
    result = await reconcile(Server(create=error), plan)
    assert (result.retry, result.after) == (False, after)


async def test_who_reaches_nobody_tries_again_with_back_off() -> None:
    unreachable = ApiError(0, "Unreachable", "nobody there")
    result = await reconcile(Server(create=unreachable), Plan(beside=independent((Create(JOB),)), status=STATUS))
    assert result == Result("retry", retry=True)


async def test_a_status_that_somebody_has_changed_meanwhile_is_read_and_decided_anew() -> None:
    server = Server(status=ApiError(409, "Conflict", "the object has been modified"))
    assert await reconcile(server, Plan(status=STATUS)) == Result("stale", retry=True)
    assert server.read == ["one"]
