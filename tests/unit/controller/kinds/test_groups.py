"""A leader and its workers live and end together."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from driftloop.api.engine import Engine
from driftloop.controller.kinds.groups import Keeping, PodGroup, groups_of, keep_together
from driftloop.controller.pods.group import worker
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.plan import Create, Delete, Obj
from unit.controller.pods.test_serving import template

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
TEMPLATE = template(Engine(type="vllm", image="vllm:1", gpus=4, nodes=3))


def ago(seconds: float) -> str:
    return timestamp(NOW - timedelta(seconds=seconds))


def leader(
    state: Obj | None = None, restarts: int = 0, last: Obj | None = None, ready: float | None = None, **fields: Any
) -> Obj:
    """A leader whose engine runs since 100 s; `ready`: for how many seconds."""
    engine = {
        "name": "engine",
        "state": state or {"running": {"startedAt": ago(100)}},
        "lastState": last or {},
        "restartCount": restarts,
    }
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": ago(ready)}] if ready is not None else []
    status = {"podIP": "10.0.0.7", "phase": "Running", "initContainerStatuses": [engine], "conditions": conditions}
    meta = {"name": "lead", "namespace": "team", "uid": "uid-lead", "resourceVersion": "7"}
    return {"metadata": meta | fields.pop("metadata", {}), "spec": {"nodeName": "node-1"}, "status": status | fields}


def workers(of: Obj, attempt: int = 0, **status: Any) -> tuple[Obj, ...]:
    """Both workers; `status` is that of the first."""
    running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    found = [
        worker(TEMPLATE, of | {"spec": {"nodeName": "node-1"}, "status": {"podIP": "10.0.0.7"}}, rank, attempt)
        for rank in (1, 2)
    ]
    for number, pod in enumerate(found):
        pod["metadata"]["uid"] = f"uid-{number}"
        pod["status"] = running | (status if number == 0 else {})
    return tuple(found)


def kept(of: Obj, *pods: Obj) -> Keeping:
    return keep_together([PodGroup(TEMPLATE, of, pods)], NOW)


def created(found: Keeping) -> list[str]:
    actions = [action for group in found.groups for action in group.actions]
    return [action.body["metadata"]["name"] for action in actions if isinstance(action, Create)]


def deleted(found: Keeping) -> list[str]:
    actions = [action for group in found.groups for action in group.actions]
    return [action.name for action in actions if isinstance(action, Delete)]


def crashed(seconds: float, code: int = 1) -> list[Obj]:
    ended = {"terminated": {"exitCode": code, "finishedAt": ago(seconds)}}
    return [{"name": "engine", "state": {"running": {}}, "lastState": ended, "restartCount": 1}]


def names(pods: tuple[Obj, ...]) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods]


def test_a_leader_gets_its_workers_as_soon_as_it_has_an_address() -> None:
    starting = leader(state={"waiting": {"reason": "PodInitializing"}})
    assert created(kept(starting)) == names(workers(starting))
    assert kept(leader(podIP=None)) == Keeping()


def test_a_complete_group_needs_nothing() -> None:
    assert kept(leader(ready=50), *workers(leader())) == Keeping()
    assert kept(leader(), *workers(leader())) == Keeping()


def test_a_missing_worker_of_a_starting_group_is_created() -> None:
    first, second = workers(leader())
    assert created(kept(leader(), first)) == names((second,))


@pytest.mark.parametrize(
    "loss",
    [
        {"containerStatuses": crashed(5)},
        {"phase": "Failed", "reason": "Evicted"},
    ],
)
def test_a_ready_leader_ends_at_once_when_a_worker_is_lost(loss: Obj) -> None:
    found = kept(leader(ready=50), *workers(leader(), **loss))
    assert deleted(found) == ["lead"]
    [group] = found.groups
    [event] = group.events
    assert (event.type, event.reason) == ("Warning", "GroupRestarted")
    assert names(workers(leader()))[0] in event.message
    [action] = group.actions
    assert isinstance(action, Delete)
    assert (action.uid, action.resource_version) == ("uid-lead", "7")


def test_a_ready_leader_ends_when_a_worker_is_gone_or_being_deleted() -> None:
    first, second = workers(leader())
    assert deleted(kept(leader(ready=50), first)) == ["lead"]
    first["metadata"]["deletionTimestamp"] = ago(0)
    assert deleted(kept(leader(ready=50), first, second)) == ["lead"]
    assert deleted(kept(leader(), first, second)) == ["lead"]


def test_a_leader_that_was_ready_with_its_previous_engine_gets_new_workers() -> None:
    # The kubelet reports it as ready until the next failed probe.
    again = leader(restarts=1, ready=150)
    assert created(kept(again)) == names(workers(leader(), attempt=1))


def test_a_starting_leader_may_end_by_itself_within_a_minute_of_a_worker_s_crash() -> None:
    early = kept(leader(), *workers(leader(), containerStatuses=crashed(20)))
    assert (early.groups, early.requeue_after) == ((), 40)
    assert deleted(kept(leader(), *workers(leader(), containerStatuses=crashed(60)))) == ["lead"]


def test_a_group_whose_worker_its_node_refuses_is_made_at_most_once_a_minute() -> None:
    """Each new leader would get a worker that is refused at once, without the back-off of a kubelet."""
    refused = workers(leader(), phase="Failed", reason="UnexpectedAdmissionError")
    refused[0]["metadata"]["creationTimestamp"] = ago(2)
    early = kept(leader(), *refused)
    assert (early.groups, early.requeue_after) == ((), 58)
    refused[0]["metadata"]["creationTimestamp"] = ago(60)
    assert deleted(kept(leader(), *refused)) == ["lead"]


def test_a_crash_before_the_leader_s_engine_has_started_is_the_kubelet_s_to_repeat() -> None:
    assert kept(leader(), *workers(leader(), containerStatuses=crashed(200))) == Keeping()
    waiting = leader(state={"waiting": {"reason": "PodInitializing"}})
    assert kept(waiting, *workers(leader(), containerStatuses=crashed(200))) == Keeping()


@pytest.mark.parametrize(
    "ended",
    [
        {"state": {"terminated": {"exitCode": 1}}},
        {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "last": {"terminated": {"exitCode": 1}}},
    ],
)
def test_the_workers_of_an_engine_that_has_ended_are_deleted(ended: Any) -> None:
    found = kept(leader(**ended), *workers(leader()))
    assert (deleted(found), created(found)) == (names(workers(leader())), [])


def test_a_restarted_engine_gets_new_workers_and_the_old_ones_go() -> None:
    old, new = workers(leader()), workers(leader(), attempt=2)
    again = leader(restarts=2)
    found = kept(again, *old)
    assert (deleted(found), created(found)) == (names(old), names(new))
    for pod in old:  # on a lost node it stays
        pod["metadata"]["deletionTimestamp"] = ago(0)
    assert created(kept(again, *old)) == names(new)
    assert kept(again, *old, *new) == Keeping()


def test_the_workers_stay_while_their_leader_drains() -> None:
    draining = leader(metadata={"deletionTimestamp": ago(-30)})
    found = kept(draining, *workers(leader()))
    assert found.groups == ()
    assert found.requeue_after is not None
    assert found.requeue_after > 30


def test_the_workers_of_a_leader_on_a_lost_node_are_deleted() -> None:
    lost = leader(metadata={"deletionTimestamp": ago(61)})
    assert deleted(kept(lost, *workers(leader()))) == names(workers(leader()))


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_the_workers_of_a_leader_that_has_ended_are_deleted(phase: str) -> None:
    ended = leader(phase=phase)
    assert deleted(kept(ended, *workers(leader()))) == names(workers(leader()))
    assert PodGroup(TEMPLATE, ended, ()).progress is None


def test_the_progress_counts_the_pods_whose_engine_runs() -> None:
    starting = leader(state={"waiting": {"reason": "PodInitializing"}})
    first, _ = workers(leader())
    assert PodGroup(TEMPLATE, starting, ()).progress == "0 of 3 pods of the group lead run their engine"
    assert PodGroup(TEMPLATE, leader(), (first,)).progress == "2 of 3 pods of the group lead run their engine"
    assert PodGroup(TEMPLATE, leader(), workers(leader())).progress is None


def test_a_group_has_started_when_all_engines_have() -> None:
    waiting = {"containerStatuses": [{"name": "engine", "state": {"waiting": {"reason": "ContainerCreating"}}}]}
    running: Obj = {"containerStatuses": [{"name": "engine", "state": {"running": {}}}]}
    first, second = workers(leader(), **running)
    assert not PodGroup(TEMPLATE, leader(), (first,)).has_started
    assert not PodGroup(TEMPLATE, leader(), (first, second | {"status": waiting})).has_started
    assert PodGroup(TEMPLATE, leader(), (first, second | {"status": running})).has_started


def test_each_leader_has_the_workers_that_it_owns() -> None:
    other = leader(metadata={"name": "other", "uid": "uid-other"})
    first, second = groups_of(TEMPLATE, [leader(), other], [*workers(leader()), *workers(other)])
    assert (first.workers, second.workers) == (workers(leader()), workers(other))
