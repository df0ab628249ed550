"""Divides rows into training rows and held-out rows. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from driftloop.contract.text import side
from driftloop_trainer.data.rows import Row
from driftloop_trainer.prepare.near import NearIndex

FENCE_THRESHOLD = 0.85  # default similarity; a dedupNear step has its own


@dataclass(frozen=True, slots=True)
class Divided:
    """The rows on both sides of the fence."""

    train: list[Row]
    held_out: list[Row]
    fenced: int  # training rows left out as near-duplicates of held-out rows


def divide(rows: Iterable[Row], salt: str, held_out_percent: int, threshold: float = FENCE_THRESHOLD) -> Divided:
    """Divide all parts by the sticky rule, then remove near-duplicates of held-out rows from the training side."""
    train: list[Row] = []
    held_out: list[Row] = []
    for row in rows:
        (train if side(salt, row.identity, held_out_percent) == "train" else held_out).append(row)
    clear = fenced(train, held_out, threshold)
    return Divided(clear, held_out, len(train) - len(clear))


def fenced(rows: Sequence[Row], held_out: Sequence[Row], threshold: float) -> list[Row]:
    """The rows that are not near-duplicates of a held-out row, by the rule of dedupNear: near prompt, same answer.

    A row with a near prompt but a different answer may stay: it can't help a model with the held-out item. All answers
    of a conversation are checked. An answer that no held-out row has is not compared: for each of its answers a long
    conversation would be read again.
    """
    index = NearIndex(threshold, (row.identity for row in (*held_out, *rows)))
    for row in held_out:
        index.add(row.identity, row.answer_key)
    answers = {row.answer_key for row in held_out}

    def is_copy(row: Row) -> bool:
        return any(
            part.answer_key in answers and index.copies(part.identity, part.answer_key) for part in row.answered()
        )

    return [row for row in rows if not is_copy(row)]


def replayed(row: Row, fraction: float) -> bool:
    """Whether training uses a row; for replay rows by the row's hash, so that a larger fraction only adds rows."""
    return row.part != "replay" or int(row.key[:16], 16) < fraction * 2**64
