"""The curve of a training: what each step measured. It is a table, and a picture of it lies beside the model.

Every checkpoint has the curve up to its step. So a run that resumes from one continues its curve, and steps that are
trained again are in it once, whichever driver trained them.
"""

import csv
import io
import logging
import math
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Self

from driftloop_trainer.charts.chart import chart
from driftloop_trainer.train.run import Position, curve_of

log = logging.getLogger(__name__)

TABLE, PICTURE = "curves.csv", "curves.png"  # in the folder of a version
_STEP = "step"
_MOST = 16_384  # rows


class Curve:
    """Rows of measured values by step. Of a run with more than 16,384 steps, early rows are the means of several."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the row of the next step. A value may be missing, or not a number."""
        self._rows.append({_STEP: step, **values})
        if len(self._rows) > _MOST:
            self._rows = _thinned(self._rows)

    def extend(self, values: Mapping[str, float]) -> None:
        """Add values to the row of the last step."""
        self._rows[-1] = {**self._rows[-1], **values}

    def last(self, most: int) -> list[tuple[int, dict[str, float]]]:
        """Up to so many of the last rows: their steps and values."""
        return [(int(row[_STEP]), {name: row[name] for name in row if name != _STEP}) for row in self._rows[-most:]]

    def text(self, last: int | None = None) -> str:
        """The table as CSV with a header, up to the step `last`. Another thread may add rows meanwhile."""
        rows = [row for row in list(self._rows) if last is None or row[_STEP] <= last]
        names = list(dict.fromkeys([_STEP, *(name for row in rows for name in row)]))
        output = io.StringIO()
        table = csv.writer(output, lineterminator="\n")
        table.writerow(names)
        table.writerows([_cell(name, row.get(name, math.nan)) for name in names] for row in rows)
        return output.getvalue()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The curve of a table. Raises ValueError if `text` is not such a table."""
        curve = cls()
        for row in csv.DictReader(io.StringIO(text), strict=True, restval="", restkey="more"):
            values = {name: float(cell) if cell else math.nan for name, cell in row.items()}
            if not math.isfinite(values.get(_STEP, math.nan)):
                raise ValueError(f"a row without a {_STEP}: {row}")
            curve._rows.append(values)
        return curve

    def picture(self) -> bytes:
        """A PNG with a panel for each kind of value."""
        names = dict.fromkeys(name for row in self._rows for name in row if name != _STEP)
        return chart(
            {name.replace("_", " "): [(row[_STEP], row.get(name, math.nan)) for row in self._rows] for name in names}
        )

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)


def curve_before(position: Position) -> Curve:
    """The curve up to the checkpoint of `position`. It is empty if it can't be read: training goes on without it."""
    try:
        return Curve.parse(curve_of(position))
    except (OSError, ValueError, TypeError, csv.Error) as error:  # StorageError is a ValueError
        log.warning("the curve of the steps before can't be read, and begins here: %s", error)
        return Curve()


def write_curves(curve: Curve, folder: Path) -> bool:
    """Write table and picture into `folder`, if there is a row. Returns whether both are there. Never raises."""
    if not len(curve):
        return False
    try:
        (folder / TABLE).write_text(curve.text())
        (folder / PICTURE).write_bytes(curve.picture())
    except Exception as error:  # a model is worth more than its curves, whatever is wrong with them
        log.warning("the version has no curves: %s", error, exc_info=True)
        for name in (TABLE, PICTURE):
            (folder / name).unlink(missing_ok=True)
        return False
    return True


def _thinned(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """At most three quarters of the rows: the means of 2, 4, 8 ... steps each, but the last quarter as it is.

    A checkpoint of one of the last steps may still be written.
    """
    early, late = rows[: -_MOST // 4], rows[-_MOST // 4 :]
    steps = 1
    while late[-1][_STEP] > steps * _MOST // 2:
        steps *= 2
    parts = groupby(range(len(early)), lambda place: (early[place][_STEP] - 1) // steps)
    return [*(_merged(early, list(places)) for _, places in parts), *late]


def _merged(rows: list[dict[str, float]], places: list[int]) -> dict[str, float]:
    """Neighbours as one row: the last of their steps, and the means of their values over the steps of each."""
    sizes = [rows[place][_STEP] - (rows[place - 1][_STEP] if place else 0) for place in places]
    names = dict.fromkeys(name for place in places for name in rows[place])
    merged = {name: _mean([rows[place].get(name, math.nan) for place in places], sizes) for name in names}
    return merged | {_STEP: rows[places[-1]][_STEP]}


def _mean(values: list[float], sizes: list[float]) -> float:
    """The mean of the finite values, each of which counts by its size; NaN without any."""
    known = [(value, size) for value, size in zip(values, sizes, strict=True) if math.isfinite(value)]
    return sum(value * size for value, size in known) / sum(size for _, size in known) if known else math.nan


def _cell(name: str, value: float) -> str:
    if name == _STEP:
        return str(int(value))
    return f"{value:.7g}" if math.isfinite(value) else ""
