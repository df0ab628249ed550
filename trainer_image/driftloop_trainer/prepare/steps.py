"""The cleaning steps of `data.steps`. Pure: rows in, rows out, first come first kept."""

from collections.abc import Iterable, Sequence

from driftloop.api.finetunejob import DataStep
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.prepare.near import NearIndex


def clean(rows: Sequence[Row], steps: Iterable[DataStep]) -> tuple[list[Row], dict[str, int]]:
    """Run the steps in order; also how many rows each type of step dropped."""
    kept = list(rows)
    dropped: dict[str, int] = {}
    for step in steps:
        before = len(kept)
        kept = apply(step, kept)
        dropped[step.type] = dropped.get(step.type, 0) + before - len(kept)
    return kept, dropped


def apply(step: DataStep, rows: list[Row]) -> list[Row]:
    """The rows that one step leaves."""
    match step.type:
        case "normalise":
            return [row for row in (row.normalised() for row in rows) if row.prompt]
        case "filterLength":
            return [row for row in rows if step.min_characters <= row.characters <= step.max_characters]
        case "dedupExact":
            return drop_exact(rows)
        case "dedupNear":
            return drop_near(rows, step.threshold)
        case "augment":
            return rows  # of the training side alone: see augment.py


def drop_exact(rows: Iterable[Row]) -> list[Row]:
    """Without rows that say the same as an earlier one: same identity, same completion."""
    seen: set[tuple[str, Turn | None]] = set()
    kept = []
    for row in rows:
        said = (row.key, row.answer)
        if said not in seen:
            seen.add(said)
            kept.append(row)
    return kept


def drop_near(rows: Sequence[Row], threshold: float) -> list[Row]:
    """Without near-duplicates of a kept row that has the same answer."""
    index = NearIndex(threshold, (row.identity for row in rows))
    kept: list[Row] = []
    for row in rows:
        if not index.copies(row.identity, row.answer_key):
            index.add(row.identity, row.answer_key)
            kept.append(row)
    return kept


def feedback_wins(rows: Iterable[Row]) -> tuple[list[Row], int]:
    """Without rows that answer a prompt otherwise than feedback does: a correction is the newest word on it."""
    all_rows = list(rows)
    answers = {row.key: row.answer for row in all_rows if row.part == "feedback"}
    kept = [row for row in all_rows if row.kind == "text" or answers.get(row.key, row.answer) == row.answer]
    return kept, len(all_rows) - len(kept)
