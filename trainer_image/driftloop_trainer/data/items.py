"""Reads the items of a suite from its file."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from driftloop.api.suite import SuiteSpec
from driftloop.contract.reasons import StageReason
from driftloop.contract.text import INSTRUCTIONS, is_blank
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import StorageError
from driftloop_trainer.data.cells import Unreadable
from driftloop_trainer.data.columns import completion_turns, prompt_turns, read_cell
from driftloop_trainer.data.conversations import calls_tools, conversation, tool_schemas
from driftloop_trainer.data.files import Record, format_of, open_table
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.data.verified import fetch_verified

_COLUMNS = ("id", "prompt", "messages", "tools", "completion", "cluster")
_LOST = ("system", "system_prompt", "history")  # columns that usually belong to the question, but are not read


@dataclass(frozen=True)
class Question:
    """A question to a model. `prompt` is the last user message."""

    prompt: str
    messages: str = ""  # JSON list of the conversation, if it is more than that message
    tools: str = ""  # JSON list of the tool schemas in the request

    def with_system(self, prompt: str) -> "Question":
        """The question with a system message; unchanged if the prompt is empty or the question has such a message."""
        messages = json.loads(self.messages) if self.messages else [{"role": "user", "content": self.prompt}]
        if not prompt or any(message["role"] in INSTRUCTIONS for message in messages):
            return self
        system = {"role": "system", "content": prompt}
        return replace(self, messages=json.dumps([system, *messages], ensure_ascii=False))

    @property
    def chat(self) -> dict[str, Any]:
        """The fields of a chat request. The model sees the tools, but has to answer with text."""
        messages = json.loads(self.messages) if self.messages else [{"role": "user", "content": self.prompt}]
        tools = {"tools": json.loads(self.tools), "tool_choice": "none"} if self.tools else {}
        return {"messages": [_api_message(message) for message in messages], **tools}


@dataclass(frozen=True)
class Item:
    """One question with its right answer. Items of the same `cluster` are not independent."""

    id: str
    question: Question
    completion: str
    cluster: str
    key: str  # `row_key` of the question


def load_items(suite: SuiteSpec, scratch: Path) -> list[Item]:
    """Load at most `maxItems` items of the suite, verified against its digest.

    If there are more, the items with the smallest hashes are selected: a random sample, the same for every version.
    Raises StageFailure that names the suite, the line and the fix, or StorageError if the file can't be fetched.
    """
    if suite.uri is None:
        raise StageFailure(StageReason.NO_ITEMS, f"suite {suite.name}: has no uri: set it to the file with its items")
    path = fetch_verified(suite.uri, suite.digest, scratch, f"suite {suite.name}")
    try:
        items = read_items(path, suite.uri, scratch)
    except OSError as error:
        if error.errno is not None:  # an error of the volume, not of the file's content
            raise StorageError(f"{suite.uri}: {error}", passing=True) from error
        raise StageFailure(StageReason.BAD_ITEMS, f"suite {suite.name}: {suite.uri}: {error}") from error
    except (ValueError, NotImplementedError) as error:
        raise StageFailure(StageReason.BAD_ITEMS, f"suite {suite.name}: {suite.uri}: {error}") from error
    if not items:
        raise StageFailure(StageReason.NO_ITEMS, f"suite {suite.name}: {suite.uri} has no items")
    return sorted(items, key=lambda item: (item.key, item.id))[: suite.max_items]


def read_items(path: Path, name: str, scratch: Path) -> list[Item]:
    """Read the items in a file, JSON lines unless its `name` has another extension. Raises Unreadable or OSError.

    Columns: prompt, or messages up to the answer; completion; optionally tools, id and cluster. The default id is the
    number of the line; by default items with the same question are one cluster.
    """
    table = open_table(path, format_of(name) or "jsonl", scratch)
    if table.columns is None:
        return []
    names = [column for column in _COLUMNS if column in table.columns]
    if not {"prompt", "messages"} & set(names):
        raise Unreadable(f"neither prompt nor messages: the columns are {', '.join(table.columns[:50])}")
    if lost := [column for column in _LOST if column in table.columns]:
        raise Unreadable(f"column {lost[0]!r} may be part of the questions but is not read: move it into messages")
    if twice := [column for column in names if table.columns.count(column) > 1]:
        raise Unreadable(f"column {twice[0]!r} occurs twice")
    return [_item(record, table.columns) for record in table.records(names)]


def question_of(row: Row) -> Question:
    """The question of a row, without its answer."""
    tools = row.tools
    if row.question == (Turn("user", row.prompt),):
        return Question(row.prompt, tools=tools)
    return Question(row.prompt, json.dumps([turn.message() for turn in row.question], ensure_ascii=False), tools)


def is_item(row: Row) -> bool:
    """Whether the row has a question, and a text without tool calls as its right answer."""
    if row.label is False or row.answer is None or calls_tools(row.answer):
        return False
    return bool(row.prompt.strip() and row.answer.content.strip())


def _item(record: Record, columns: list[str]) -> Item:
    row = _row(record)
    if not row.is_unicode:
        raise Unreadable(f"{record.place}: half of a surrogate pair: the text was cut in the middle of a character")
    if not is_item(row):
        field = "completion" if not is_blank(row.prompt) else "prompt"
        raise Unreadable(f"{record.place}: {field} must be a non-empty text; the columns are {', '.join(columns[:50])}")
    return Item(
        id=str(record.values.get("id") or record.place.split()[-1]),
        question=question_of(row),
        completion=row.completion or "",
        cluster=str(record.values.get("cluster") or row.key),
        key=row.key,
    )


def _row(record: Record) -> Row:
    """The messages with their answer, or the prompt with its completion."""
    turns: tuple[Turn, ...] = read_cell(record, "messages", conversation) or read_cell(record, "prompt", prompt_turns)
    answer: tuple[Turn, ...] = read_cell(record, "completion", completion_turns)
    if answer and turns[-1].role == "assistant":
        raise Unreadable(f"{record.place}: the conversation ends with an answer, but there is also a completion")
    tools: str = read_cell(record, "tools", tool_schemas)
    return Row("data", "suite", (*turns, *answer), tools=tools, place=record.place)


def as_document(row: Row) -> dict[str, Any]:
    """A row as a line of an items file, for `read_items`."""
    question = question_of(row)
    conversation_fields = {
        name: json.loads(value) for name, value in (("messages", question.messages), ("tools", question.tools)) if value
    }
    return {
        "id": row.key,
        "prompt": row.prompt,
        **conversation_fields,
        "completion": row.completion,
        "cluster": row.cluster or row.key,
    }


def _api_message(message: dict[str, Any]) -> dict[str, Any]:
    """A message for OpenAI's API: the arguments of a tool call are JSON text, while templates need an object."""
    calls = [
        call | {"function": call["function"] | {"arguments": _json(call["function"]["arguments"])}}
        for call in message.get("tool_calls", [])
    ]
    return message | ({"tool_calls": calls} if calls else {})


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
