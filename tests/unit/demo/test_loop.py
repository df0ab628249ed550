"""The demo's loop, told by statuses in the order in which a cluster shows them."""

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from demo.kube import Kube
from demo.loop import Loop, Pace
from demo.pools import Pools
from demo.reads import Obj
from demo.timeline import Timeline
from demo.traffic import Traffic


class Scripted(Kube):
    """A cluster whose service has one status after another, and keeps the last."""

    def __init__(self, *statuses: Obj) -> None:
        self._next: Iterator[Obj] = iter(statuses)
        self._last: Obj = {}

    def get(self, kind: str, name: str, namespace: str) -> Obj | None:
        self._last = next(self._next, self._last)
        return {"status": self._last}


class Sending(Traffic):
    """A load client that sends ten requests per second, as `tick` counts them."""

    def __init__(self) -> None:
        self.by_phase = {"steady": Counter()}

    def tick(self, _: float) -> None:
        self.by_phase["steady"].update(sent=10, correct=9)

    def sent(self, phase: str) -> int:
        return self.by_phase[phase]["sent"]

    def totals(self) -> dict[str, int]:
        return {"failed": 0}


def loop(kube: Kube, timeline: Timeline) -> Loop:
    return Loop(kube, "support-desk", timeline, Pools([], [], [], [], []), Pace())


def test_an_accuracy_is_shown_only_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic, timeline, shown = Sending(), Timeline(), list[str]()
    monkeypatch.setattr(time, "sleep", traffic.tick)
    monkeypatch.setattr(timeline, "live", shown.append)
    loop(Scripted(), timeline).until_sent(traffic, "steady", 20)
    assert ["accuracy" in each for each in shown] == [False, True]
    assert "accuracy 0.900" in shown[1]


def test_the_timeline_says_of_retraining_only_what_was_decided_after_the_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    timeline = Timeline()
    waiting, running = "Waiting: 79/400 samples", "Running: support-desk-1"
    kube = Scripted(
        {},
        {"retraining": {"state": "Idle", "message": "no trigger"}},
        {"retraining": {"state": "Waiting", "message": waiting}},
        {"retraining": {"state": "Running", "message": running, "job": "support-desk-1"}},
    )
    found = loop(kube, timeline).retraining()
    assert found == ("support-desk-1", True)
    assert [each["event"] for each in timeline.events] == [f"retraining {waiting}", f"retraining {running}"]
