"""Finds columns of bytes that Python has spelled out. Pure.

pandas and the csv module write bytes into a text file as b'…' (https://github.com/pandas-dev/pandas/issues/9712). A
single such cell may be an answer about Python, so only a column of nothing else is refused.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from driftloop_trainer.data.cells import Unreadable

_BYTES = re.compile(r"b'.*'|b\".*\"", re.DOTALL)


class SpelledBytes:
    """Looks at the cells of some columns, row after row."""

    def __init__(self, columns: Iterable[str]) -> None:
        self._only_bytes = set(columns)
        self._cells: Counter[str] = Counter()

    def add(self, values: Mapping[str, Any]) -> None:
        """Look at the cells of a row. Empty ones tell nothing."""
        for column in tuple(self._only_bytes):
            if values.get(column) in (None, ""):
                continue
            if isinstance(values[column], str) and _BYTES.fullmatch(values[column]):
                self._cells[column] += 1
            else:
                self._only_bytes.discard(column)

    def check(self) -> None:
        """Raise Unreadable if a column has only bytes in Python's syntax."""
        column = min(self._only_bytes & self._cells.keys(), default=None)
        if column is not None:
            raise Unreadable(
                f"column {column!r}: all {self._cells[column]} cells are bytes in Python's syntax (b'…'): "
                "write them as text (in pandas .str.decode('utf-8'))"
            )
