"""A column of nothing but Python's spelling of bytes is refused, a single such cell is text."""

from typing import Any

import pytest

from driftloop_trainer.data.cells import Unreadable
from driftloop_trainer.data.spelledbytes import SpelledBytes


def look_at(*cells: Any) -> SpelledBytes:
    found = SpelledBytes(["text", "other"])
    for cell in cells:
        found.add({"text": cell, "other": "a word"})
    return found


@pytest.mark.parametrize(
    "cells",
    [
        (str(b"my card"), str(b"it's lost")),
        (None, str("café\n".encode()), ""),
    ],
)
def test_a_column_of_spelled_bytes_is_refused_with_what_to_do(cells: tuple[Any, ...]) -> None:
    with pytest.raises(Unreadable, match=r"column 'text': all \d cells are bytes in Python's syntax.*decode"):
        look_at(*cells).check()


@pytest.mark.parametrize(
    "cells",
    [(), (None, ""), ("b'x'", "what does b'x' mean?"), ("b'x' and b'y", "b'x'"), (7, "b'x'"), ("b", "b'")],
)
def test_other_columns_are_text(cells: tuple[Any, ...]) -> None:
    look_at(*cells).check()
