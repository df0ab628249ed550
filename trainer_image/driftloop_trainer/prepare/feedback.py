"""Training rows from what users said about a service's answers.

Segments are JSON lines at `uri/version/pod/sequence.jsonl`:
{id, version, prompt, completion, rating: positive|negative|correction, correction, user, created, expires, side}.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from driftloop.api.base import ApiModel
from driftloop.contract.storage import read_files
from driftloop.contract.task import FeedbackSource
from driftloop_trainer.prepare.rows import Row


class FeedbackRecord(ApiModel):
    """One line of a segment. `side` is not read: the sticky rule is applied again, to the text itself."""

    id: str
    prompt: str
    completion: str = ""
    rating: Literal["positive", "negative", "correction"]
    correction: str | None = None
    user: str = ""
    created: AwareDatetime
    expires: AwareDatetime | None = None

    @property
    def answer(self) -> str | None:
        """What the model should have said, as far as the user told."""
        if self.rating == "correction":
            return self.correction
        return self.completion if self.rating == "positive" else None


@dataclass(frozen=True, slots=True)
class Selected:
    """Rows to use, and how many records were left out for which reason."""

    rows: list[Row]
    skipped: dict[str, int]


def select(records: Iterable[FeedbackRecord], *, now: datetime, max_rows: int, max_rows_per_user: int) -> Selected:
    """Newest first: one answer a prompt, a capped share a user, none that expired. Pure.

    Users contradict themselves and each other: the newest word on a prompt counts, the older ones are left out.
    """
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    per_user: Counter[str] = Counter()
    seen: set[str] = set()
    for record in sorted(records, key=lambda r: (r.created, r.id), reverse=True):
        answer = record.answer
        row = Row.answering("feedback", "feedback", record.prompt, answer, cluster=record.user or None)
        if record.expires is not None and record.expires <= now:
            skipped["expired"] += 1
        elif answer is None or not answer.strip() or not record.prompt.strip():
            skipped["noAnswer"] += 1
        elif row.key in seen:
            skipped["superseded"] += 1
        elif record.user and per_user[record.user] >= max_rows_per_user:
            skipped["userCap"] += 1
        elif len(rows) >= max_rows:
            skipped["maxRows"] += 1
        else:
            seen.add(row.key)
            per_user[record.user] += 1
            rows.append(row)
    return Selected(rows, dict(skipped))


def read_feedback(source: FeedbackSource, now: datetime) -> Selected:
    """The rows of every segment below `source.uri`; a service without feedback has none.

    A line that doesn't parse is counted and left out: a segment may be cut by a killed pod.
    """
    records: list[FeedbackRecord] = []
    unreadable = 0
    for line in _lines(source.uri):
        try:
            records.append(FeedbackRecord.model_validate(json.loads(line)))
        except (ValidationError, ValueError):
            unreadable += 1
    found = select(records, now=now, max_rows=source.max_rows, max_rows_per_user=source.max_rows_per_user)
    return Selected(found.rows, found.skipped | ({"unreadable": unreadable} if unreadable else {}))


def _lines(uri: str) -> Iterator[bytes]:
    for content in read_files(uri, "*/*/*.jsonl"):
        yield from (line for line in content.splitlines() if line.strip())
