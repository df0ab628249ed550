"""docs/data.md lists every reason by which the code drops a row."""

import re
from pathlib import Path
from typing import get_args

import pytest

from driftloop.api.finetunejob import DataStep

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/data.md").read_text()
PREPARE = ROOT / "trainer_image/driftloop_trainer/prepare"
LEFT_OUT = set(re.findall(r'LeftOut\("(\w+)"\)', (PREPARE / "sources.py").read_text()))
FEEDBACK = set(re.findall(r'skipped\["(\w+)"\]|"(\w+)": \w+\} if', (PREPARE / "feedback.py").read_text()))
STEPS = set(get_args(DataStep.model_fields["type"].annotation))
REASONS = LEFT_OUT | STEPS | {f"feedback.{one or other}" for one, other in FEEDBACK}


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_the_reason_is_documented(reason: str) -> None:
    assert f"`{reason}`" in DOCUMENT


def test_the_search_for_reasons_finds_some_of_each_kind() -> None:
    assert {"emptyAnswer", "dedupNear", "feedback.superseded", "feedback.unreadable"} <= REASONS
