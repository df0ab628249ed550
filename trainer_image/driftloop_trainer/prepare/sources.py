"""Reads the files of a job's sources into rows."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from driftloop.api.finetunejob import Columns, DataSource, TrainingMethod
from driftloop.contract.reasons import StageReason
from driftloop.contract.text import is_blank
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import StorageError, fetch_file
from driftloop_trainer.data.cells import Unreadable
from driftloop_trainer.data.columns import completion_turns, label_of, prompt_turns, read_cell, text_of
from driftloop_trainer.data.conversations import answers_nothing, conversation, tool_schemas
from driftloop_trainer.data.files import Format, Record, format_of, open_table
from driftloop_trainer.data.pairs import answered_turns
from driftloop_trainer.data.rows import Part, Row, Turn
from driftloop_trainer.data.spelledbytes import SpelledBytes
from driftloop_trainer.prepare.forms import resolve_columns

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Read:
    """The rows of a source, and the number of skipped records by reason."""

    rows: list[Row]
    dropped: Counter[str]


class LeftOut(Exception):
    """A record with nothing to learn from. The message is the reason that it is counted under."""


def read_source(source: DataSource, part: Part, scratch: Path, method: TrainingMethod) -> Read:
    """Read all rows of a source, in the form that `method` needs. Records with nothing to learn from are counted.

    Raises StorageError if the file can't be fetched, StageFailure if it can't be read or a column is missing.
    """
    path = fetch_file(source.uri, scratch)
    dropped: Counter[str] = Counter()
    rows: list[Row] = []
    try:
        table = open_table(path, _format(source), scratch, source.columns.model_dump(exclude_none=True).values())
        if table.columns is None:
            return Read([], dropped)
        columns = resolve_columns(source.columns, table.columns, source.name, method)
        names = list(columns.model_dump(exclude_none=True).values())
        spelled_bytes = SpelledBytes(names)
        for record in table.records(names):
            spelled_bytes.add(record.values)
            try:
                rows.append(to_row(record, columns, part, source.name))
            except LeftOut as reason:
                if str(reason) not in dropped:
                    log.info("source %s: the first row that is left out as %s is %s", source.name, reason, record.place)
                dropped[str(reason)] += 1
        spelled_bytes.check()
    except OSError as error:
        if error.errno is not None:  # an error of the volume, not of the file's content
            passing = not isinstance(error, FileNotFoundError | PermissionError)
            raise StorageError(f"{source.uri}: {error}", passing) from error
        raise _unreadable(source, error) from error
    except (ValueError, NotImplementedError) as error:  # Arrow raises NotImplementedError for unsupported data
        raise _unreadable(source, error) from error
    _log_columns(source, names, table.columns)
    return Read(rows, dropped)


def to_row(record: Record, columns: Columns, part: Part, source: str) -> Row:
    """A record as a row. Raises LeftOut if it has nothing to learn from, Unreadable if that is unclear."""
    if columns.text is not None:
        row = Row(part, source, text=read_cell(record, columns.text, text_of), place=record.place)
    else:
        turns, rejected = _pair(record, columns) if columns.chosen else (_turns(record, columns), None)
        tools = read_cell(record, columns.tools, tool_schemas) if columns.tools else ""
        label = read_cell(record, columns.label, label_of) if columns.label else None
        row = Row(part, source, turns, rejected=rejected, label=label, tools=tools, place=record.place)
    if row.label is not None and row.answer is None and not is_blank(row.prompt):
        raise Unreadable(f"{record.place}: has a label, but its last message is not an answer of the assistant")
    if is_blank(row.prompt):
        raise LeftOut("emptyPrompt")
    if any(answers_nothing(turn) for turn in row.all_turns):
        raise LeftOut("emptyAnswer")
    if row.prefers_nothing:
        raise LeftOut("equalAnswers")
    if not row.is_unicode:
        raise LeftOut("loneSurrogate")
    return row


def _pair(record: Record, columns: Columns) -> tuple[tuple[Turn, ...], Turn]:
    """The conversation with its chosen answer, and the rejected answer. Raises LeftOut."""
    prompt: tuple[Turn, ...] = read_cell(record, columns.prompt, prompt_turns) if columns.prompt else ()
    chosen, rejected = (
        read_cell(record, column or "", partial(answered_turns, prompt=prompt))
        for column in (columns.chosen, columns.rejected)
    )
    if not chosen or not rejected:
        raise LeftOut("emptyAnswer" if not columns.prompt or _has_text(prompt) else "emptyPrompt")
    if chosen[:-1] != rejected[:-1]:
        raise LeftOut("differsEarlier")
    return chosen, rejected[-1]


def _turns(record: Record, columns: Columns) -> tuple[Turn, ...]:
    if columns.messages is not None:
        return read_cell(record, columns.messages, conversation)
    prompt = read_cell(record, columns.prompt or "", prompt_turns)
    if columns.completion is None:
        return prompt
    completion = read_cell(record, columns.completion, completion_turns)
    if not completion and _has_text(prompt):
        raise LeftOut("emptyAnswer")
    return (*prompt, *completion)


def _has_text(turns: Sequence[Turn]) -> bool:
    return any(not is_blank(turn.content) for turn in turns)


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


def _log_columns(source: DataSource, names: list[str], present: list[str]) -> None:
    others = [name for name in present if name not in names][:20]
    ignored = f", ignores {', '.join(others)}" if others else ""
    log.info("source %s: reads %s%s", source.name, ", ".join(names), ignored)
