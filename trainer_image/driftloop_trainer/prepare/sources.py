"""Read the files of a job's sources into rows."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from driftloop.api.finetunejob import Columns, DataSource
from driftloop.contract.storage import fetch_file
from driftloop_trainer.failure import StageFailure
from driftloop_trainer.prepare.rows import Part, Row, Turn

Record = dict[str, Any]
_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def read_source(source: DataSource, part: Part, scratch: Path) -> list[Row]:
    """All rows of one source; rows whose prompt or text is empty are left out.

    Raises StorageError when the file isn't there, StageFailure when it doesn't read or lacks a column.
    """
    path = fetch_file(source.uri, scratch)
    columns: Columns | None = None
    rows: list[Row] = []
    try:
        for number, (present, record) in enumerate(_records(path, _format(source)), start=1):
            columns = columns or resolve_columns(source.columns, present, source.name)
            row = to_row(record, columns, part, source.name, number)
            if row is not None:
                rows.append(row)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, ValueError, OSError) as error:
        raise StageFailure("DataUnreadable", f"source {source.name}, {source.uri}: {error}") from error
    return rows


def resolve_columns(asked: Columns, present: list[str], source: str) -> Columns:
    """The columns to read: those asked for, else the customary ones that are there. Raises WrongColumn."""
    if named := asked.model_dump(exclude_none=True):
        missing = sorted(column for column in named.values() if column not in present)
        if missing:
            raise _wrong_column(source, f"no column {', '.join(map(repr, missing))}", present)
        if not {"prompt", "text", "messages"} & named.keys():
            raise _wrong_column(source, "columns names neither prompt, text nor messages", present)
        return asked
    for customary in (("prompt", "completion"), ("messages",), ("text",)):
        if set(customary) <= set(present):
            return Columns(**{name: name for name in customary})
    raise _wrong_column(source, "found neither prompt and completion, messages nor text", present)


def to_row(record: Record, columns: Columns, part: Part, source: str, number: int) -> Row | None:
    """One record as a row; None when it holds nothing to learn from."""
    if columns.messages is not None:
        return _conversation(record.get(columns.messages), part, source, number)
    prompt = _string(record.get(columns.prompt or columns.text or ""))
    if not prompt.strip():
        return None
    if columns.prompt is None:
        return Row(part, source, text=prompt)
    completion = _string(record.get(columns.completion)) if columns.completion else ""
    return Row.answering(part, source, prompt, completion if completion.strip() else None)


def _conversation(value: Any, part: Part, source: str, number: int) -> Row | None:
    messages = json.loads(value) if isinstance(value, str) else value
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and "role" in m and "content" in m for m in messages
    ):
        raise ValueError(f"row {number}: messages must be a list of objects with role and content")
    turns = [Turn(str(message["role"]), _string(message["content"])) for message in messages]
    row = Row(part, source, tuple(turns))
    if not row.question or row.question[-1].role != "user" or not row.prompt.strip():
        return None
    return row


def _format(source: DataSource) -> str:
    found = source.format or _FORMATS.get(Path(source.uri).suffix.lower())
    if found is None:
        raise StageFailure(
            "UnknownFormat", f"source {source.name}: set format to csv, jsonl or parquet; {source.uri} doesn't tell"
        )
    return found


def _records(path: Path, file_format: str) -> Iterator[tuple[list[str], Record]]:
    """Each record with the columns it could have."""
    readers = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
    return readers[file_format](path)


def _csv(path: Path) -> Iterator[tuple[list[str], Record]]:
    # The csv module keeps every cell a string: a type guesser would turn the label 007 into 7.
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        for record in reader:
            yield list(reader.fieldnames or []), record


def _jsonl(path: Path) -> Iterator[tuple[list[str], Record]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(record, dict):
                raise ValueError(f"line {number}: expected an object")
            yield list(record), record


def _parquet(path: Path) -> Iterator[tuple[list[str], Record]]:
    import pyarrow.parquet  # slow to import, and only this format needs it

    with pyarrow.parquet.ParquetFile(path) as table:
        for batch in table.iter_batches():
            for record in batch.to_pylist():
                yield table.schema_arrow.names, record


def _string(value: Any) -> str:
    return "" if value is None else str(value)


def _wrong_column(source: str, what: str, present: list[str]) -> StageFailure:
    return StageFailure("WrongColumn", f"source {source}: {what}; the file has {', '.join(map(repr, present[:50]))}")
