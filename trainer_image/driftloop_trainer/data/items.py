"""The questions of a suite, from its file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftloop.api.base import SuiteSpec
from driftloop.contract.manifest import file_sha256
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import StorageError, fetch_file
from driftloop_trainer.data.cells import Unreadable
from driftloop_trainer.data.columns import completion_turns, prompt_turns, read_cell
from driftloop_trainer.data.conversations import calls_tools, conversation, tool_schemas
from driftloop_trainer.data.files import Record, format_of, open_table
from driftloop_trainer.data.rows import Row, Turn

_COLUMNS = ("id", "prompt", "messages", "tools", "completion", "cluster")
_LOST = ("system", "system_prompt", "history")  # part of the question by their usual meaning, which are not read


@dataclass(frozen=True)
class Question:
    """What a model is asked. `prompt` is the last user turn."""

    prompt: str
    messages: str = ""  # JSON list of the conversation, where it is more than that turn
    tools: str = ""  # JSON list of the tool schemas that it is offered

    @property
    def chat(self) -> dict[str, Any]:
        """Its part of a chat request. Tools are shown to the model, and its answer is taken as text."""
        messages = json.loads(self.messages) if self.messages else [{"role": "user", "content": self.prompt}]
        offered = {"tools": json.loads(self.tools), "tool_choice": "none"} if self.tools else {}
        return {"messages": [_as_sent(message) for message in messages], **offered}


@dataclass(frozen=True)
class Item:
    """One question with its one right answer. Items of a cluster are alike."""

    id: str
    question: Question
    completion: str
    cluster: str
    key: str  # `row_key` of the question


def load_items(suite: SuiteSpec, scratch: Path) -> list[Item]:
    """At most `maxItems` of the suite's items, verified against its digest.

    Beyond that the ones with the smallest hashes are taken: a random sample, and the same for every version.
    Raises StageFailure that names the suite, the line and the fix; StorageError when the file can't be read.
    """
    if suite.uri is None:
        raise StageFailure(StageReason.NO_ITEMS, f"suite {suite.name}: it has no uri: give it the file with its items")
    path = fetch_file(suite.uri, scratch)
    digest = f"sha256:{file_sha256(path)}"
    if suite.digest is not None and suite.digest != digest:
        message = f"suite {suite.name}: {suite.uri} has {digest}, expected {suite.digest}: the file was changed"
        raise StageFailure(StageReason.DIGEST_MISMATCH, message)
    try:
        items = read_items(path, suite.uri, scratch)
    except OSError as error:
        if error.errno is not None:  # the volume's, not the file's
            raise StorageError(f"{suite.uri}: {error}", passing=True) from error
        raise StageFailure(StageReason.BAD_ITEMS, f"suite {suite.name}: {suite.uri}: {error}") from error
    except (ValueError, NotImplementedError) as error:
        raise StageFailure(StageReason.BAD_ITEMS, f"suite {suite.name}: {suite.uri}: {error}") from error
    if not items:
        raise StageFailure(StageReason.NO_ITEMS, f"suite {suite.name}: {suite.uri} has no items")
    return sorted(items, key=lambda item: (item.key, item.id))[: suite.max_items]


def read_items(path: Path, name: str, scratch: Path) -> list[Item]:
    """Items of a file, JSON lines unless its `name` tells another format. Raises Unreadable, OSError.

    Columns: prompt, or messages up to the answer; completion; and if given tools, id and cluster. Without an id it is
    the line; without a cluster the same question makes one.
    """
    table = open_table(path, format_of(name) or "jsonl", scratch)
    if table.columns is None:
        return []
    names = [column for column in _COLUMNS if column in table.columns]
    if not {"prompt", "messages"} & set(names):
        raise Unreadable(f"neither prompt nor messages: the columns are {', '.join(table.columns[:50])}")
    if lost := [column for column in _LOST if column in table.columns]:
        raise Unreadable(f"column {lost[0]!r} may be part of the questions and is not read: put it into messages")
    if twice := [column for column in names if table.columns.count(column) > 1]:
        raise Unreadable(f"column {twice[0]!r} is there twice")
    return [_item(record, table.columns) for record in table.records(names)]


def question_of(row: Row) -> Question:
    """What is asked of a model that is to answer as the row does."""
    tools = row.tools
    if row.question == (Turn("user", row.prompt),):
        return Question(row.prompt, tools=tools)
    return Question(row.prompt, json.dumps([turn.message() for turn in row.question], ensure_ascii=False), tools)


def is_item(row: Row) -> bool:
    """Whether it asks something, and has one text as its answer."""
    return bool(row.prompt.strip() and row.answer and row.answer.content.strip() and not calls_tools(row.answer))


def _item(record: Record, columns: list[str]) -> Item:
    row = _row(record)
    if not row.is_unicode:
        raise Unreadable(f"{record.place}: half of a surrogate pair: the text was cut in the middle of a character")
    if not is_item(row):
        field = "completion" if row.prompt.strip() else "prompt"
        raise Unreadable(
            f"{record.place}: {field} must be a text that isn't empty; the columns are {', '.join(columns[:50])}"
        )
    return Item(
        id=str(record.values.get("id") or record.place.split()[-1]),
        question=question_of(row),
        completion=row.completion or "",
        cluster=str(record.values.get("cluster") or row.key),
        key=row.key,
    )


def _row(record: Record) -> Row:
    """Messages with their answer, or a prompt with its completion."""
    asked: tuple[Turn, ...] = read_cell(record, "messages", conversation) or read_cell(record, "prompt", prompt_turns)
    answer: tuple[Turn, ...] = read_cell(record, "completion", completion_turns)
    if answer and asked[-1].role == "assistant":
        raise Unreadable(f"{record.place}: the conversation ends with an answer, and there is a completion too")
    tools: str = read_cell(record, "tools", tool_schemas)
    return Row("data", "suite", (*asked, *answer), tools=tools, place=record.place)


def as_document(row: Row) -> dict[str, Any]:
    """A row as a line of an items file, which `read_items` reads back."""
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


def _as_sent(message: dict[str, Any]) -> dict[str, Any]:
    """As OpenAI's API has it: the arguments of a call are JSON text, where templates take the object."""
    calls = [
        call | {"function": call["function"] | {"arguments": _json(call["function"]["arguments"])}}
        for call in message.get("tool_calls", [])
    ]
    return message | ({"tool_calls": calls} if calls else {})


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
