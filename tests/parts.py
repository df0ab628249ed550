"""The parts of `make test-long`: what needs longer than `make test` has. docs/testing.md has their durations.

A test marked `long("PART")` belongs to its part alone. A property (hypothesis) belongs to `make test`, which tries some
of its examples, and to FUZZ, which tries all of them.
"""

from collections.abc import Collection, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

PARTS: Mapping[str, str] = {
    "faults": "every fault of the cluster in every variant, of which `make test` has one each",
    "exactness": "sharded training gives the losses of plain training, in every arrangement",
    "fuzz": "every property, on all of its examples",
    "scale": "many objects at once",
}
FUZZ = "fuzz"
ALL = "all"

# Deadlines are off: what an example takes says how busy the machine is, and no more.
settings.register_profile("some", deadline=None, max_examples=20)
settings.register_profile("all", deadline=None, max_examples=100)


def part_of(item: pytest.Item) -> str | None:
    """The part to which a test belongs alone; None: it belongs to `make test`."""
    marker = item.get_closest_marker("long")
    if marker is None:
        return None
    if len(marker.args) != 1 or marker.args[0] not in PARTS:
        raise pytest.UsageError(f"{item.nodeid}: long{marker.args} names none of the parts {', '.join(PARTS)}")
    return str(marker.args[0])


def is_property(item: pytest.Item) -> bool:
    """Whether hypothesis makes its examples."""
    return bool(is_hypothesis_test(getattr(item, "obj", None)))


def is_chosen(item: pytest.Item, part: str | None) -> bool:
    """Whether a run of `part` (None: `make test`) has this test."""
    belongs = part_of(item)
    fuzzed = part in (FUZZ, ALL) and is_property(item)
    return fuzzed or belongs == part or (part == ALL and belongs is not None)


def runs(config: pytest.Config, part: str) -> bool:
    """Whether this run has the tests of `part`."""
    return config.getoption("part") in (part, ALL)


def sweep(part: str, cases: Collection[str], main: Collection[str]) -> list[Any]:
    """Parameters of one test: the main cases belong to `make test`, the others to `part`."""
    assert set(main) <= set(cases), f"{set(main) - set(cases)} are not among the cases"
    return [pytest.param(case, marks=() if case in main else pytest.mark.long(part)) for case in cases]


def examples(count: int, *unchecked: HealthCheck) -> settings:
    """As many examples of a property as the fuzz part tries; `make test` tries the profile's percentage of them."""
    return settings(max_examples=max(1, count * settings().max_examples // 100), suppress_health_check=unchecked)
