"""docs/conditions.md lists every reason that the code gives, and none that it does not."""

import re
from enum import StrEnum
from pathlib import Path

import pytest

from driftloop.contract.reasons import StageReason
from driftloop.controller.vocabulary.reasons import UNAVAILABLE, Reason

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/conditions.md").read_text()
REASONS = {*map(str, Reason), *map(str, StageReason)}
# What Kubernetes itself says of pods and Jobs is passed on as it is.
KUBERNETES = {
    "BackoffLimitExceeded",
    "CreateContainerConfigError",
    "CreateContainerError",
    "DeadlineExceeded",
    "ErrImageNeverPull",
    "ErrImagePull",
    "Evicted",
    "FailedIndexes",
    "ImagePullBackOff",
    "InvalidImageName",
    "OOMKilled",
    "PodFailurePolicy",
    "RunContainerError",
    "UnexpectedAdmissionError",
    "Unschedulable",
}
RUNNING = "Running"  # said of a stage by its own reason


def documented() -> set[str]:
    """The names in the first column of the tables of reasons."""
    tables = DOCUMENT.partition("## Any kind")[2]
    cells = [line.split("|")[1] for line in tables.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_the_reason_is_documented(reason: str) -> None:
    assert reason in documented()


def test_what_is_documented_is_given() -> None:
    assert documented() <= REASONS | KUBERNETES | {RUNNING}


@pytest.mark.parametrize("enum", [Reason, StageReason])
def test_every_reason_is_given_by_some_code(enum: type[StrEnum]) -> None:
    sources = [
        path for folder in ("operator", "trainer_image", "server_image") for path in (ROOT / folder).rglob("*.py")
    ]
    given = {name for path in sources for name in re.findall(rf"\b{enum.__name__}\.(\w+)", path.read_text())}
    assert given >= set(enum.__members__)


def test_endings_that_say_nothing_of_model_or_data_are_reasons_that_exist() -> None:
    assert UNAVAILABLE <= REASONS | KUBERNETES
