"""Which rows are trained on, and which never are. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from driftloop.contract.text import side
from driftloop_trainer.data.rows import Row
from driftloop_trainer.prepare.near import without_copies_of

FENCE_THRESHOLD = 0.85  # of similarity; a dedupNear step brings its own


@dataclass(frozen=True, slots=True)
class Divided:
    """Rows on either side of the fence."""

    train: list[Row]
    held_out: list[Row]
    fenced: int  # training rows left out for being near-duplicates of held-out ones


def divide(rows: Iterable[Row], salt: str, held_out_percent: int, threshold: float = FENCE_THRESHOLD) -> Divided:
    """Divide by the sticky rule, every part alike, then clear the training side of copies of held-out rows."""
    train: list[Row] = []
    held_out: list[Row] = []
    for row in rows:
        (train if side(salt, row.identity, held_out_percent) == "train" else held_out).append(row)
    clear = fenced(train, held_out, threshold)
    return Divided(clear, held_out, len(train) - len(clear))


def fenced(rows: Sequence[Row], held_out: Sequence[Row], threshold: float) -> list[Row]:
    """The rows that give no held-out row away: those without an answer that a held-out row has to a near prompt.

    That is dedupNear's own rule. A row whose prompt is near and whose answer is another teaches that other answer: what
    it leaves behind can only cost a model the held-out item. Every answer of a conversation is looked at.
    """
    owners = [position for position, row in enumerate(rows) for _ in row.answered()]
    answered = [(part.identity, part.answer_key) for row in rows for part in row.answered()]
    originals = [(row.identity, row.answer_key) for row in held_out]
    clear = set(without_copies_of(answered, originals, threshold))
    copies = {owner for number, owner in enumerate(owners) if number not in clear}
    return [row for position, row in enumerate(rows) if position not in copies]


def replayed(row: Row, fraction: float) -> bool:
    """Whether an old row is trained on again. By its hash: a larger fraction only adds rows."""
    return row.part != "replay" or int(row.key[:16], 16) < fraction * 2**64
