"""Training rows from users' feedback.

Segments are JSON lines at `uri/version/pod/sequence.jsonl`:
{id, version, prompt, messages, tools, completion, partial, rating: positive|negative|correction, correction, user,
created, expires, side}. Optional are `messages`, if the conversation is more than the prompt, `tools`, if the request
had tools, and `partial`, if a limit or the client ended the answer, or it called tools.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, ValidationError

from driftloop.api.base import ApiModel
from driftloop.contract.messages import UNREADABLE
from driftloop.contract.task import FeedbackSource
from driftloop.podlib.storage import read_files
from driftloop_trainer.data.cells import Unreadable
from driftloop_trainer.data.conversations import answers_nothing, conversation, tool_schemas
from driftloop_trainer.data.rows import Row, Turn


class FeedbackRecord(ApiModel):
    """One line of a segment. `side` is not read, as the sticky rule is applied again to the text."""

    id: str
    prompt: str
    messages: tuple[dict[str, Any], ...] = ()
    tools: str = ""
    completion: str = ""
    partial: bool = False
    rating: Literal["positive", "negative", "correction"]
    correction: str | None = None
    user: str = ""
    created: AwareDatetime
    expires: AwareDatetime | None = None

    @property
    def answer(self) -> str | None:
        """The correct answer by the user's rating; None for a negative rating."""
        if self.rating == "correction":
            return self.correction
        return self.completion if self.rating == "positive" else None

    def row(self, answer: str) -> Row:
        """The conversation with its answer. Raises Unreadable if it has more than text."""
        for message in self.messages:
            if reason := message.get(UNREADABLE):
                raise Unreadable(str(reason))
        history = conversation(list(self.messages)) if self.messages else (Turn("user", self.prompt),)
        turns = (*history, Turn("assistant", answer))
        if any(answers_nothing(turn) for turn in turns):  # tool calls, which older proxies didn't store
            raise Unreadable("an assistant message is empty")
        tools = tool_schemas(self.tools)
        return Row("feedback", "feedback", turns, tools=tools, cluster=self.user or None, place=f"rating {self.id}")


@dataclass(frozen=True, slots=True)
class Selected:
    """The selected rows, and the number of skipped records by reason."""

    rows: list[Row]
    skipped: dict[str, int]


def select(records: Iterable[FeedbackRecord], *, now: datetime, max_rows: int, max_rows_per_user: int) -> Selected:
    """Select the newest answer per question, with a limit per user, without expired records. Pure.

    Users may contradict each other, and only the newest answer to a question counts. The same question after a
    different conversation is a different question.
    """
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    per_user: Counter[str] = Counter()
    seen: set[str] = set()
    for record in sorted(records, key=lambda r: (r.created, r.id), reverse=True):
        answer = record.answer
        if record.expires is not None and record.expires <= now:
            skipped["expired"] += 1
        elif record.rating == "positive" and record.partial:
            skipped["partialAnswer"] += 1
        elif answer is None or not answer.strip() or not record.prompt.strip():
            skipped["noAnswer"] += 1
        elif (row := _row(record, answer)) is None:
            skipped["unreadable"] += 1
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
    """Read all segments below `source.uri`. A service without feedback has none.

    A line that can't be parsed is counted and skipped, as a killed pod may leave an incomplete line.
    """
    records: list[FeedbackRecord] = []
    unreadable = 0
    for line in _lines(source.uri):
        try:
            records.append(FeedbackRecord.model_validate(json.loads(line)))
        except (ValidationError, ValueError):
            unreadable += 1
    selected = select(records, now=now, max_rows=source.max_rows, max_rows_per_user=source.max_rows_per_user)
    skipped = Counter(selected.skipped)
    skipped["unreadable"] += unreadable
    return Selected(selected.rows, dict(+skipped))


def _row(record: FeedbackRecord, answer: str) -> Row | None:
    try:
        row = record.row(answer)
    except Unreadable:
        return None
    return row if row.is_unicode else None


def _lines(uri: str) -> Iterator[bytes]:
    for content in read_files(uri, "*/*/*.jsonl"):
        yield from (line for line in content.splitlines() if line.strip())
