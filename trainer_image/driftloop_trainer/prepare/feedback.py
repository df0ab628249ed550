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
from driftloop.contract.text import is_blank
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

    def answers(self, labelled: bool) -> list[tuple[str, bool | None]]:
        """The answers to train on, with their labels; without `labelled` only the correct one, which has no label.

        An answer that ended early is not one of them.
        """
        right = None if self.partial and self.rating == "positive" else self.answer
        if not labelled:
            answers: list[tuple[str | None, bool | None]] = [(right, None)]
        else:
            wrong = None if self.partial or self.rating == "positive" else self.completion
            answers = [(right, True), (None if wrong == right else wrong, False)]
        return [(answer, label) for answer, label in answers if answer is not None and not is_blank(answer)]

    def row(self, answer: str, label: bool | None) -> Row:
        """The conversation with its answer. Raises Unreadable if it has more than text."""
        for message in self.messages:
            if reason := message.get(UNREADABLE):
                raise Unreadable(str(reason))
        history = conversation(list(self.messages)) if self.messages else (Turn("user", self.prompt),)
        turns = (*history, Turn("assistant", answer))
        if any(answers_nothing(turn) for turn in turns):  # tool calls, which older proxies didn't store
            raise Unreadable("an assistant message is empty")
        tools = tool_schemas(self.tools)
        place = f"rating {self.id}"
        return Row("feedback", "feedback", turns, tools=tools, label=label, cluster=self.user or None, place=place)


@dataclass(frozen=True, slots=True)
class Selected:
    """The selected rows, and the number of skipped records by reason."""

    rows: list[Row]
    skipped: dict[str, int]


def select(
    records: Iterable[FeedbackRecord], *, now: datetime, max_rows: int, max_rows_per_user: int, labelled: bool = False
) -> Selected:
    """Select the newest rating per question, with a limit per user, without expired records. Pure.

    Users may contradict each other, and only the newest rating of a question counts. The same question after a
    different conversation is a different question. `labelled`: bad answers are rows too, and each has its label.
    """
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    per_user: Counter[str] = Counter()
    seen: set[str] = set()
    for record in sorted(records, key=lambda r: (r.created, r.id), reverse=True):
        answers = record.answers(labelled)
        if record.expires is not None and record.expires <= now:
            skipped["expired"] += 1
        elif not answers and record.partial and (labelled or record.rating == "positive"):
            skipped["partialAnswer"] += 1
        elif not answers or is_blank(record.prompt):
            skipped["noAnswer"] += 1
        elif not (usable := _rows(record, answers)):
            skipped["unreadable"] += 1
        elif usable[0].key in seen:
            skipped["superseded"] += 1
        elif record.user and per_user[record.user] >= max_rows_per_user:
            skipped["userCap"] += 1
        elif len(rows) + len(usable) > max_rows:
            skipped["maxRows"] += 1
        else:
            seen.add(usable[0].key)
            per_user[record.user] += 1
            rows += usable
    return Selected(rows, dict(skipped))


def read_feedback(source: FeedbackSource, now: datetime, *, labelled: bool = False) -> Selected:
    """Read all segments below `source.uri`. A service without feedback has none. `labelled`: see `select`.

    A line that can't be parsed is counted and skipped, as a killed pod may leave an incomplete line.
    """
    records: list[FeedbackRecord] = []
    unreadable = 0
    for line in _lines(source.uri):
        try:
            records.append(FeedbackRecord.model_validate(json.loads(line)))
        except (ValidationError, ValueError):
            unreadable += 1
    selected = select(
        records, now=now, max_rows=source.max_rows, max_rows_per_user=source.max_rows_per_user, labelled=labelled
    )
    skipped = Counter(selected.skipped)
    skipped["unreadable"] += unreadable
    return Selected(selected.rows, dict(+skipped))


def _rows(record: FeedbackRecord, answers: Iterable[tuple[str, bool | None]]) -> list[Row]:
    """The rows of a rating; none if any of them can't be read."""
    try:
        rows = [record.row(answer, label) for answer, label in answers]
    except Unreadable:
        return []
    return rows if all(row.is_unicode for row in rows) else []


def _lines(uri: str) -> Iterator[bytes]:
    for content in read_files(uri, "*/*/*.jsonl"):
        yield from (line for line in content.splitlines() if line.strip())
