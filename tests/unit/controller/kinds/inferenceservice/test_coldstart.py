"""How long the last pod of a revision took to start."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.kinds.inferenceservice.coldstart import cold_start
from driftloop.controller.vocabulary.plan import Obj


def at(seconds: int) -> str:
    return f"2026-11-28T10:{seconds // 60:02}:{seconds % 60:02}Z"


def pod(name: str = "a", moments: tuple[int, ...] = (0, 5, 12, 72, 100), **changes: Any) -> Obj:
    created, scheduled, fetching, fetched, ready = moments
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(scheduled)},
        {"type": "Ready", "status": changes.get("ready", "True"), "lastTransitionTime": at(ready)},
    ]
    ended = {"terminated": {"startedAt": at(fetching), "finishedAt": at(fetched)}}
    statuses = [
        {"name": "fetch", "restartCount": changes.get("restarts", 0), "state": ended},
        {"name": "engine", "restartCount": 0, "state": {"running": {"startedAt": at(fetched)}}},
    ]
    metadata = {"name": name, "creationTimestamp": at(created)}
    return {"metadata": metadata, "status": {"conditions": conditions, "initContainerStatuses": statuses}}


def test_each_phase_has_its_seconds() -> None:
    start = cold_start([pod()], None)
    assert start is not None
    phases = (start.node_seconds, start.image_seconds, start.fetch_seconds, start.load_seconds)
    assert (phases, start.total_seconds, start.pod) == ((5, 7, 60, 28), 100, "a")


def test_the_newest_ready_pod_counts() -> None:
    later = pod("b", (200, 200, 201, 203, 210))
    start = cold_start([pod(), later, pod("c", (300, 301, 302, 303, 304), ready="False")], None)
    assert start is not None
    assert (start.pod, start.total_seconds) == ("b", 10)


def test_a_pod_that_becomes_ready_again_later_keeps_its_first_reading() -> None:
    first = cold_start([pod()], None)
    assert cold_start([pod(moments=(0, 5, 12, 72, 3000))], first) == first


def test_nothing_is_said_of_a_start_that_was_interrupted_or_of_no_pod() -> None:
    known = cold_start([pod("old")], None)
    assert cold_start([pod(restarts=2)], None) is None
    assert cold_start([pod(restarts=2)], known) == known
    assert cold_start([], known) == known
    assert cold_start([{"metadata": {"name": "bare", "creationTimestamp": at(0)}}], None) is None


@given(st.tuples(*[st.integers(0, 3000)] * 5))
def test_phases_are_never_negative_and_add_up(moments: tuple[int, ...]) -> None:
    start = cold_start([pod(moments=moments)], None)
    assert (start is None) == (list(moments) != sorted(moments))
    if start is not None:
        phases = (start.node_seconds, start.image_seconds, start.fetch_seconds, start.load_seconds)
        assert min(phases) >= 0
        assert sum(phases) == start.total_seconds == moments[4] - moments[0]
