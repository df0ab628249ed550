"""Reads the files of a job's sources into rows."""

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

# Columns that usually belong to a conversation, from the formats of other trainers. They are not read.
_BESIDE_MESSAGES = frozenset(
    {"audios", "functions", "image", "images", "label", "rejected", "system", "system_prompt", "videos"}
)
_BESIDE_PROMPTS = _BESIDE_MESSAGES | {"context", "history", "input", "instruction"}


@dataclass(frozen=True, slots=True)
class Read:
    """The rows of a source, and the number of skipped records by reason."""

    rows: list[Row]
    dropped: Counter[str]


class LeftOut(Exception):
    """A record with nothing to learn from. The message is the reason that it is counted under."""


def read_source(source: DataSource, part: Part, scratch: Path) -> Read:
    """Read all rows of a source. Records without a prompt or with an empty answer are skipped and counted.

    Raises StorageError if the file can't be fetched, StageFailure if it can't be read or a column is missing.
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
        if error.errno is not None:  # an error of the volume, not of the file's content
            passing = not isinstance(error, FileNotFoundError | PermissionError)
            raise StorageError(f"{source.uri}: {error}", passing) from error
        raise _unreadable(source, error) from error
    except (ValueError, NotImplementedError) as error:  # Arrow raises NotImplementedError for unsupported data
        raise _unreadable(source, error) from error
    _log_columns(source, names, table.columns)
    return Read(rows, dropped)


def resolve_columns(configured: Columns, present: list[str], source: str) -> Columns:
    """The columns to read: the configured ones, else common ones that exist. Raises StageFailure (WrongColumn)."""
    if named := configured.model_dump(exclude_none=True):
        missing = sorted(column for column in named.values() if column not in present)
        if missing:
            raise _wrong_column(source, f"no column {', '.join(map(repr, missing))}", present)
        if len({"prompt", "text", "messages"} & named.keys()) != 1:
            raise _wrong_column(source, "columns must name exactly one of prompt, text and messages", present)
        if "completion" in named and "prompt" not in named:
            raise _wrong_column(source, "columns names a completion without its prompt", present)
        if {"tools", "text"} <= named.keys():
            raise _wrong_column(source, "columns names tools, which have no effect for plain text", present)
        return _once(configured, present, source)
    for columns in _CUSTOMARY:
        if set(columns.model_dump(exclude_none=True).values()) <= set(present):
            _refuse_half_a_row(columns, present, source)
            tools = "tools" if "tools" in present and columns.text is None else None
            return _once(columns.model_copy(update={"tools": tools}), present, source)
    raise _wrong_column(
        source,
        "no column prompt and completion, messages, conversations or text: set the columns to read in "
        "data.sources[].columns",
        present,
    )


def _refuse_half_a_row(columns: Columns, present: list[str], source: str) -> None:
    """Raise StageFailure if the columns are not configured and others, by their names, belong to the conversation.

    Without its system prompt a row teaches something else, and with `label: false` the opposite.
    """
    if columns.text is not None:
        return
    others = _BESIDE_MESSAGES if columns.messages else _BESIDE_PROMPTS
    if left_out := sorted(others & set(present)):
        read = ", ".join(f"{kind}: {name}" for kind, name in columns.model_dump(exclude_none=True).items())
        raise _wrong_column(
            source,
            f"{', '.join(map(repr, left_out))} may be part of the rows but would not be read: merge it into the rows, "
            f"or set data.sources[].columns to {read} to ignore it",
            present,
        )


def to_row(record: Record, columns: Columns, part: Part, source: str) -> Row:
    """A record as a row. Raises LeftOut if it has nothing to learn from, Unreadable if that is unclear."""
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
            raise _wrong_column(source, f"column {column!r} occurs {present.count(column)} times", present)
    return columns


def _format(source: DataSource) -> Format:
    file_format = source.format or format_of(source.uri)
    if file_format is None:
        raise StageFailure(
            StageReason.UNKNOWN_FORMAT,
            f"source {source.name}: set format to csv, jsonl or parquet, as {source.uri} has no known extension",
        )
    return file_format


def _unreadable(source: DataSource, error: Exception) -> StageFailure:
    return StageFailure(StageReason.DATA_UNREADABLE, f"source {source.name}, {source.uri}: {error}")


def _wrong_column(source: str, what: str, present: list[str]) -> StageFailure:
    return StageFailure(
        StageReason.WRONG_COLUMN, f"source {source}: {what}; the file has {', '.join(map(repr, present[:50]))}"
    )


def _log_columns(source: DataSource, names: list[str], present: list[str]) -> None:
    others = [name for name in present if name not in names][:20]
    ignored = f", ignores {', '.join(others)}" if others else ""
    log.info("source %s: reads %s%s", source.name, ", ".join(names), ignored)
