"""Read the files of a job's sources into rows."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from driftloop.api.finetunejob import Columns, DataSource
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import StorageError, fetch_file
from driftloop_trainer.data.columns import completion_turns, prompt_turns, read_cell, text_of
from driftloop_trainer.data.conversations import answers_nothing, conversation, tool_schemas
from driftloop_trainer.data.files import Format, Record, format_of, open_table
from driftloop_trainer.data.rows import Part, Row, Turn

log = logging.getLogger(__name__)

_CUSTOMARY = (
    Columns(prompt="prompt", completion="completion"),
    Columns(messages="messages"),
    Columns(messages="conversations"),
    Columns(messages="conversation"),
    Columns(text="text"),
)

# Columns that belong to a conversation by their usual meaning, which are not read: other trainers' forms have them.
_BESIDE_MESSAGES = frozenset(
    {"audios", "functions", "image", "images", "label", "rejected", "system", "system_prompt", "videos"}
)
_BESIDE_PROMPTS = _BESIDE_MESSAGES | {"context", "history", "input", "instruction"}


@dataclass(frozen=True, slots=True)
class Read:
    """The rows of a source, and how many records were left out for which reason."""

    rows: list[Row]
    dropped: Counter[str]


class LeftOut(Exception):
    """A record that holds nothing to learn from; the message is the reason it is counted by."""


def read_source(source: DataSource, part: Part, scratch: Path) -> Read:
    """All rows of one source. Records without a prompt or with an empty answer are left out and counted.

    Raises StorageError when the file can't be had, StageFailure when it doesn't read or lacks a column.
    """
    path = fetch_file(source.uri, scratch)
    dropped: Counter[str] = Counter()
    rows: list[Row] = []
    try:
        table = open_table(path, _format(source), scratch, source.columns.model_dump(exclude_none=True).values())
        if table.columns is None:
            return Read([], dropped)
        columns = resolve_columns(source.columns, table.columns, source.name)
        names = list(columns.model_dump(exclude_none=True).values())
        for record in table.records(names):
            try:
                rows.append(to_row(record, columns, part, source.name))
            except LeftOut as reason:
                dropped[str(reason)] += 1
    except OSError as error:
        if error.errno is not None:  # the volume's, not the file's
            passing = not isinstance(error, FileNotFoundError | PermissionError)
            raise StorageError(f"{source.uri}: {error}", passing) from error
        raise _unreadable(source, error) from error
    except (ValueError, NotImplementedError) as error:  # what Arrow lacks is no ValueError
        raise _unreadable(source, error) from error
    _say(source, names, table.columns)
    return Read(rows, dropped)


def resolve_columns(asked: Columns, present: list[str], source: str) -> Columns:
    """The columns to read: those asked for, else the customary ones that are there. Raises WrongColumn."""
    if named := asked.model_dump(exclude_none=True):
        missing = sorted(column for column in named.values() if column not in present)
        if missing:
            raise _wrong_column(source, f"no column {', '.join(map(repr, missing))}", present)
        if len({"prompt", "text", "messages"} & named.keys()) != 1:
            raise _wrong_column(source, "columns must name one of prompt, text and messages", present)
        if "completion" in named and "prompt" not in named:
            raise _wrong_column(source, "columns names a completion without its prompt", present)
        if {"tools", "text"} <= named.keys():
            raise _wrong_column(source, "columns names tools, which plain text has no use for", present)
        return _once(asked, present, source)
    for columns in _CUSTOMARY:
        if set(columns.model_dump(exclude_none=True).values()) <= set(present):
            _refuse_half_a_row(columns, present, source)
            tools = "tools" if "tools" in present and columns.text is None else None
            return _once(columns.model_copy(update={"tools": tools}), present, source)
    raise _wrong_column(
        source,
        "found neither prompt and completion, messages, conversations nor text: name the columns to read in "
        "data.sources[].columns",
        present,
    )


def _refuse_half_a_row(columns: Columns, present: list[str], source: str) -> None:
    """Raises WrongColumn where columns were guessed and another one, by its name, is part of the conversation too.

    Without its system prompt a row teaches something else, and with `label: false` the opposite.
    """
    if columns.text is not None:
        return
    others = _BESIDE_MESSAGES if columns.messages else _BESIDE_PROMPTS
    if left_out := sorted(others & set(present)):
        read = ", ".join(f"{kind}: {name}" for kind, name in columns.model_dump(exclude_none=True).items())
        raise _wrong_column(
            source,
            f"{', '.join(map(repr, left_out))} may be part of the rows and would be left out: put it into them, "
            f"or set data.sources[].columns to {read} to go on without it",
            present,
        )


def to_row(record: Record, columns: Columns, part: Part, source: str) -> Row:
    """One record as a row. Raises LeftOut when it holds nothing to learn from, Unreadable when that is in doubt."""
    if columns.text is not None:
        row = Row(part, source, text=read_cell(record, columns.text, text_of), place=record.place)
    else:
        turns = _turns(record, columns)
        tools = read_cell(record, columns.tools, tool_schemas) if columns.tools else ""
        row = Row(part, source, turns, tools=tools, place=record.place)
    if not row.prompt.strip():
        raise LeftOut("emptyPrompt")
    if any(answers_nothing(turn) for turn in row.turns):
        raise LeftOut("emptyAnswer")
    if not row.is_unicode:
        raise LeftOut("loneSurrogate")
    return row


def _turns(record: Record, columns: Columns) -> tuple[Turn, ...]:
    if columns.messages is not None:
        return read_cell(record, columns.messages, conversation)
    prompt = read_cell(record, columns.prompt or "", prompt_turns)
    if columns.completion is None:
        return prompt
    completion = read_cell(record, columns.completion, completion_turns)
    if not completion and any(turn.content.strip() for turn in prompt):
        raise LeftOut("emptyAnswer")
    return (*prompt, *completion)


def _once(columns: Columns, present: list[str], source: str) -> Columns:
    for column in columns.model_dump(exclude_none=True).values():
        if present.count(column) > 1:
            raise _wrong_column(source, f"column {column!r} is there {present.count(column)} times", present)
    return columns


def _format(source: DataSource) -> Format:
    found = source.format or format_of(source.uri)
    if found is None:
        raise StageFailure(
            StageReason.UNKNOWN_FORMAT,
            f"source {source.name}: set format to csv, jsonl or parquet; {source.uri} doesn't tell",
        )
    return found


def _unreadable(source: DataSource, error: Exception) -> StageFailure:
    return StageFailure(StageReason.DATA_UNREADABLE, f"source {source.name}, {source.uri}: {error}")


def _wrong_column(source: str, what: str, present: list[str]) -> StageFailure:
    return StageFailure(
        StageReason.WRONG_COLUMN, f"source {source}: {what}; the file has {', '.join(map(repr, present[:50]))}"
    )


def _say(source: DataSource, names: list[str], present: list[str]) -> None:
    others = [name for name in present if name not in names][:20]
    left_out = f", not {', '.join(others)}" if others else ""
    log.info("source %s: reads %s%s", source.name, ", ".join(names), left_out)
