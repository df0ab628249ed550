from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from driftloop_trainer.data.cells import Unreadable, cell_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" as it is\n", " as it is\n"),
        (None, None),
        (float("nan"), None),
        (7, "7"),
        (7.5, "7.5"),
        (True, "true"),
        (Decimal("7.50"), "7.50"),
        (date(2030, 1, 2), "2030-01-02"),
        (datetime(2030, 1, 2, tzinfo=UTC), "2030-01-02T00:00:00+00:00"),
    ],
)
def test_a_cell_is_spelled_as_json_and_iso_8601_do(value: Any, text: str | None) -> None:
    assert cell_text(value) == text


@pytest.mark.parametrize("value", [{"a": 1}, ["a"], float("inf"), b"bytes", object()])
def test_what_has_no_one_spelling_is_refused(value: Any) -> None:
    with pytest.raises(Unreadable, match="not a text"):
        cell_text(value)
