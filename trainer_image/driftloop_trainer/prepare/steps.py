"""The cleaning steps of `data.steps`. Of duplicates the first row is kept. Pure."""

from collections.abc import Iterable, Sequence
from typing import assert_never

from driftloop.api.finetunejob import DataStep
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.prepare.near import NearIndex


def clean(rows: Sequence[Row], steps: Iterable[DataStep]) -> tuple[list[Row], dict[str, int]]:
    """Run the steps in order. Returns the rows, and the number of dropped rows per type of step."""
    kept = list(rows)
    dropped: dict[str, int] = {}
    for step in steps:
        before = len(kept)
        kept = apply(step, kept)
        dropped[step.type] = dropped.get(step.type, 0) + before - len(kept)
    return kept, dropped


def apply(step: DataStep, rows: list[Row]) -> list[Row]:
    """Run one step."""
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
            return rows  # later, and only for training rows: see augment.py
        case never:
            assert_never(never)


def drop_exact(rows: Iterable[Row]) -> list[Row]:
    """Drop rows with the prompt, the answer, the rejected answer and the label of an earlier row."""
    seen: set[tuple[str, Turn | None, Turn | None, bool | None]] = set()
    kept = []
    for row in rows:
        content = (row.key, row.answer, row.rejected, row.label)
        if content not in seen:
            seen.add(content)
            kept.append(row)
    return kept


def drop_near(rows: Sequence[Row], threshold: float) -> list[Row]:
    """Drop near-duplicates of an earlier row with the same answer and label, or the same pair of answers."""
    index = NearIndex(threshold, (row.identity for row in rows))
    kept: list[Row] = []
    for row in rows:
        answers = (row.answer_key, row.rejected_key, row.label)
        if not index.copies(row.identity, answers):
            index.add(row.identity, answers)
            kept.append(row)
    return kept


def feedback_wins(rows: Iterable[Row]) -> tuple[list[Row], int]:
    """Drop rows whose answer contradicts feedback on the same prompt, as feedback is newer. Also returns how many.

    With labels, a good answer contradicts another good one, and the same answer with the other label.
    """
    all_rows = list(rows)
    rated = [row for row in all_rows if row.part == "feedback"]
    right = {row.key: row.answer for row in rated if row.label is not False}
    labels = {(row.key, row.answer): row.label for row in rated}
    kept = [
        row
        for row in all_rows
        if row.part == "feedback"
        or row.kind == "text"
        or (
            (row.label is False or right.get(row.key, row.answer) == row.answer)
            and labels.get((row.key, row.answer), row.label) == row.label
        )
    ]
    return kept, len(all_rows) - len(kept)
