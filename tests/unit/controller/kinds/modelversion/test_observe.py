"""Which versions are read: all while one may be evaluated."""

from typing import cast

import pytest

from driftloop.controller.kinds.modelversion.observe import observe
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.kube.nodes import Nodes
from driftloop.controller.runtime.kube.routes import Routes
from driftloop.controller.runtime.readings.world import Metrics, World
from driftloop.controller.vocabulary.labels import RETRY
from driftloop.controller.vocabulary.plan import Key, Obj
from unit.controller.stages import NOW, SETTINGS, approved, deployment, service, version

DESK = service()
OLDER, REJECTED = version("support-1", "1"), version("support-2", "2") | {"status": {"phase": "Rejected"}}
STABLE = approved(version("support-3", "3", created="2026-01-01T11:30:00Z"))


async def versions_read(own: Obj) -> list[str]:
    caches = Caches()
    for number, obj in enumerate((own, REJECTED, STABLE, DESK, deployment(DESK, "support-3"))):
        caches.put(obj | {"metadata": obj["metadata"] | {"resourceVersion": str(number + 1)}})
    world = World(caches, cast(Metrics, None), SETTINGS, Nodes(None, lambda: 0.0), cast(Routes, None), lambda: NOW)
    observed = await observe(Key("ModelVersion", own["metadata"]["namespace"], own["metadata"]["name"]), world)
    assert observed is not None
    return sorted(body["metadata"]["name"] for body in observed.versions)


@pytest.mark.parametrize("phase", ["Failed", "Rejected", "Approved"])
async def test_of_a_judged_version_that_can_not_become_stable_only_the_stable_ones_are_read(phase: str) -> None:
    assert await versions_read(OLDER | {"status": {"phase": phase}}) == ["support-3"]


async def test_of_a_version_that_is_evaluated_all_are_read() -> None:
    assert await versions_read(OLDER) == ["support-1", "support-2", "support-3"]


async def test_of_a_failed_version_that_a_person_tries_again_all_are_read() -> None:
    """The looks of the others were not counted, and an anchor that is not stable seemed not to exist."""
    failed = OLDER | {"status": {"phase": "Failed"}}
    retried = failed | {"metadata": failed["metadata"] | {"annotations": {RETRY: "1"}}}
    assert await versions_read(retried) == ["support-1", "support-2", "support-3"]
