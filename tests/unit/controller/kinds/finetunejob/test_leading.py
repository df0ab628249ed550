from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import Elastic
from driftloop.controller.kinds.finetunejob.leading import make_room
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import INDEX
from driftloop.controller.vocabulary.plan import Delete, Disrupt, Obj

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
JOB: Obj = {"metadata": {"uid": "train", "name": "train"}}
ELASTIC = Elastic(min_nodes=1, wait_seconds=120)


def before(seconds: float) -> str:
    return timestamp(NOW - timedelta(seconds=seconds))


def pod(index: int, age: float, phase: str = "Running", **changes: Any) -> Obj:
    meta: Obj = {
        "name": f"train-{index}-{age}",
        "namespace": "team",
        "uid": f"uid-{index}-{age}",
        "resourceVersion": "7",
        "creationTimestamp": before(age),
        "labels": {INDEX: str(index)},
        "ownerReferences": [{"uid": "train", "controller": True}],
    }
    return {"metadata": meta | changes, "status": {"phase": phase}}


def lead(waited: float, reason: str = "Unschedulable") -> Obj:
    """Pod 0, created again after its node was lost."""
    waits = {"type": "PodScheduled", "status": "False", "reason": reason, "lastTransitionTime": before(waited)}
    found = pod(0, waited + 1, "Pending")
    found["status"]["conditions"] = [waits]
    return found


def ended(*pods: Obj, elastic: Elastic | None = ELASTIC) -> list[str]:
    found = []
    for group in make_room(JOB, pods, elastic, NOW):
        mark, action = group.actions  # with the mark the Job counts no retry
        assert isinstance(mark, Disrupt)
        assert isinstance(action, Delete)
        assert (action.kind, action.uid) == ("Pod", mark.uid)
        assert mark.resource_version == "7"
        (event,) = group.events
        assert event.reason == "WorkerMakesRoom"
        found.append(action.name)
    return found


def test_the_last_worker_makes_room_for_a_leading_pod_that_no_node_takes() -> None:
    """On two nodes of which one was lost, the leading pod waited for ever beside its worker."""
    assert ended(lead(130), pod(1, 900)) == ["train-1-900"]
    assert ended(lead(130), pod(1, 900), pod(2, 900)) == ["train-2-900"]


@pytest.mark.parametrize(
    "pods",
    [
        (lead(100), pod(1, 900)),  # its node may come back
        (pod(0, 900), pod(1, 900)),  # it runs
        (pod(0, 200, "Pending"), pod(1, 900)),  # its image is pulled
        (lead(130, "SchedulerError"), pod(1, 900)),
        (lead(130), pod(1, 900, deletionTimestamp=before(1))),  # one is making room now
        (lead(130), pod(1, 900), pod(2, 5, "Pending")),  # one has just made room
        (lead(300), pod(1, 100)),  # it has made room, and pod 0 did not take its node
        (lead(130), pod(1, 900, "Failed")),
        (lead(130), pod(1, 900, ownerReferences=[{"uid": "other", "controller": True}])),
        (pod(1, 900),),
    ],
)
def test_else_no_worker_ends(pods: tuple[Obj, ...]) -> None:
    assert ended(*pods) == []


def test_a_training_that_waits_for_all_nodes_ends_no_worker() -> None:
    assert ended(lead(10_000), pod(1, 20_000), elastic=None) == []


def test_while_another_lost_node_is_missed_a_worker_makes_room_all_the_same() -> None:
    assert ended(lead(130), pod(1, 900), pod(2, 100, "Pending")) == ["train-1-900"]


@given(
    waited=st.floats(0, 1000),
    workers=st.lists(st.tuples(st.floats(0, 2000), st.sampled_from(["Running", "Pending", "Failed"])), max_size=6),
)
def test_at_most_one_worker_ends_at_a_time_and_none_that_is_younger_than_the_leading_pod(
    waited: float, workers: list[tuple[float, str]]
) -> None:
    pods = [pod(index, age, phase) for index, (age, phase) in enumerate(workers, start=1)]
    found = ended(lead(waited), *pods)
    assert len(found) <= 1
    running = {each["metadata"]["name"]: each for each in pods if each["status"]["phase"] == "Running"}
    for name in found:
        assert waited >= ELASTIC.wait_seconds - 1
        assert running[name]["metadata"]["creationTimestamp"] <= before(waited + 1)
