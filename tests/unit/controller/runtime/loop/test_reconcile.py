"""Complaints as conditions."""

from datetime import UTC, datetime
from typing import Any

from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.kube.nodes import Nodes
from driftloop.controller.runtime.loop.reconcile import complaint
from driftloop.controller.runtime.readings.world import World
from driftloop.controller.vocabulary.plan import Settings

NOTHING: Any = None


def test_a_complaint_keeps_what_is_known_and_says_that_it_goes_no_further() -> None:
    world = World(
        Caches(), NOTHING, Settings("t", "s"), Nodes(None, lambda: 0.0), now=lambda: datetime(2026, 1, 1, tzinfo=UTC)
    )
    kept = {"type": "Degraded", "status": "True", "reason": "R", "message": "m"}
    obj = {
        "metadata": {"generation": 7},
        "status": {"phase": "Training", "conditions": [kept, kept | {"type": "Reconciling"}, kept | {"type": "Ready"}]},
    }
    found = complaint(obj, "NameTaken", "the name is taken", world)
    assert found["phase"] == "Training"
    assert found["observedGeneration"] == 7
    by_type = {each["type"]: each for each in found["conditions"]}
    assert set(by_type) == {"Degraded", "Ready", "Stalled"}
    assert by_type["Ready"]["status"] == "False"
    assert by_type["Stalled"]["reason"] == "NameTaken"
    assert complaint(obj | {"status": found}, "NameTaken", "the name is taken", world) == found
