"""docs/conditions.md lists every reason that the code gives."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftloop.controller.vocabulary.reasons import Reason

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/conditions.md").read_text()
STAGE_FAILURE = re.compile(r"""(?:StageFailure|StageError|BadInput)\(\s*(?:reason=)?"([A-Z]\w+)""")


def given(*folders: str) -> Iterator[str]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from STAGE_FAILURE.findall(path.read_text())


REASONS = {*Reason, *given("trainer_image", "server_image")}


@pytest.mark.parametrize("reason", sorted(map(str, REASONS)))
def test_the_reason_is_documented(reason: str) -> None:
    assert f"`{reason}`" in DOCUMENT


def test_the_search_for_reasons_finds_some_of_each_part() -> None:
    assert {"DoesNotFit", "WrongColumn", "RolledBack"} <= REASONS
