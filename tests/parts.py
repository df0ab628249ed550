"""The parts of `make test-long`, for tests that take too long for `make test`. Their durations: docs/testing.md.

A test with the mark `long("PART")` belongs only to its part. A property (hypothesis) belongs to `make test`, which
tries some of its examples, and to FUZZ, which tries all of them.
"""

from collections.abc import Collection, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

PARTS: Mapping[str, str] = {
    "faults": "all variants of each fault of the cluster; `make test` has one variant each",
    "exactness": "sharded training has the losses, gradients and weights of plain training, in every arrangement",
    "memory": "the plan's estimate is what torch's memory tracker counts, for models of 1B to 70B parameters",
    "fuzz": "all properties with all of their examples",
    "scale": "many objects at once",
    "entrypoints": "trainings of the users' own, with their libraries, by the pods' own commands",
    "trackers": "a training in a real MLflow server",
    "trainings": "trainings on the cluster that the loop has none of",
    "autoscaling": "a HorizontalPodAutoscaler scales a service by the proxy's metric, also in a canary",
    "gateway": "canaries by weight behind a real Gateway, Traefik",
    "vllm": "rollouts, drain and rollback with vLLM as the engine, and replicas over two nodes",
}
FUZZ = "fuzz"
ALL = "all"

# No deadlines, as the time of an example mostly depends on the load of the machine.
settings.register_profile("some", deadline=None, max_examples=20)
settings.register_profile("all", deadline=None, max_examples=100)


def part_of(item: pytest.Item) -> str | None:
    """The part that a test belongs to; None: it belongs to `make test`."""
    marker = item.get_closest_marker("long")
    if marker is None:
        return None
    if len(marker.args) != 1 or marker.args[0] not in PARTS:
        raise pytest.UsageError(f"{item.nodeid}: long{marker.args} is not one of the parts {', '.join(PARTS)}")
    return str(marker.args[0])


def is_property(item: pytest.Item) -> bool:
    """Whether the test is a hypothesis property."""
    return bool(is_hypothesis_test(getattr(item, "obj", None)))


def is_chosen(item: pytest.Item, part: str | None) -> bool:
    """Whether a run of `part` (None: `make test`) includes this test."""
    belongs = part_of(item)
    fuzzed = part in (FUZZ, ALL) and is_property(item)
    return fuzzed or belongs == part or (part == ALL and belongs is not None)


def runs(config: pytest.Config, part: str) -> bool:
    """Whether this run includes the tests of `part`."""
    return config.getoption("part") in (part, ALL)


def sweep(part: str, cases: Collection[str], main: Collection[str]) -> list[Any]:
    """Parameters of a test: the main cases belong to `make test`, the others to `part`."""
    assert set(main) <= set(cases), f"{set(main) - set(cases)} are not among the cases"
    return [pytest.param(case, marks=() if case in main else pytest.mark.long(part)) for case in cases]


def examples(count: int, *unchecked: HealthCheck) -> settings:
    """Settings for a property with `count` examples in FUZZ; `make test` tries the profile's percentage of them."""
    return settings(max_examples=max(1, count * settings().max_examples // 100), suppress_health_check=unchecked)
