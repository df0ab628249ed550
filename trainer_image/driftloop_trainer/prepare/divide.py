"""Which rows are trained on, and which never are. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from driftloop.contract.text import side
from driftloop_trainer.prepare.near import without_copies_of
from driftloop_trainer.prepare.rows import Row

FENCE_THRESHOLD = 0.85  # of similarity; a dedupNear step brings its own


@dataclass(frozen=True, slots=True)
class Divided:
    """Rows on either side of the family's fence."""

    train: list[Row]
    held_out: list[Row]
    fenced: int  # training rows left out for being near-duplicates of held-out ones


def divide(rows: Iterable[Row], family: str, held_out_percent: int, threshold: float = FENCE_THRESHOLD) -> Divided:
    """Divide by the sticky rule, every part alike, then clear the training side of copies of held-out rows."""
    train: list[Row] = []
    held_out: list[Row] = []
    for row in rows:
        (train if side(family, row.identity, held_out_percent) == "train" else held_out).append(row)
    clear = without_copies_of([row.identity for row in train], [row.identity for row in held_out], threshold)
    return Divided([train[position] for position in clear], held_out, len(train) - len(clear))


def replayed(row: Row, fraction: float) -> bool:
    """Whether an old row is trained on again. By its hash: a larger fraction only adds rows."""
    return row.part != "replay" or int(row.key[:16], 16) < fraction * 2**64
