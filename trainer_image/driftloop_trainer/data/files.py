"""Reads the files of a source in any supported format and compression: names of columns, and records in order.

Nothing is guessed: ambiguous content raises Unreadable that names the line or row and says how to fix it.
"""

import csv
import gzip
import io
import json
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, assert_never

from driftloop_trainer.data.cells import Unreadable

Format = Literal["csv", "jsonl", "parquet"]

csv.field_size_limit(sys.maxsize)  # a cell may contain a book; the csv module's default limit is 131,072 characters

_FORMATS: dict[str, Format] = {
    ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet",
}  # fmt: skip
_COMPRESSED = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz", ".lz4", ".zip")
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_REFUSED = (
    (b"BZh[1-9]1AY&SY", "is compressed with bzip2: decompress it, or use gzip or zstd"),
    (b"\xfd7zXZ\0", "is compressed with xz: decompress it, or use gzip or zstd"),
    (b"\x04\x22\x4d\x18", "is compressed with lz4: decompress it, or use gzip or zstd"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive: unpack it"),
    (b"PK\x03\x04", "is a zip archive or an Excel workbook: unpack it, or save it as CSV UTF-8"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook: save it as CSV UTF-8"),
    (b"ARROW1\0\0", "is an Arrow file: write it as Parquet"),
    (b"\xff\xfe\0\0|\0\0\xfe\xff", "is UTF-32: convert it, e.g. iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe|\xfe\xff", "is UTF-16: convert it, e.g. iconv -f UTF-16 -t UTF-8"),
)
_DELIMITERS = (";", "\t", "|")


@dataclass(frozen=True, slots=True)
class Record:
    """The requested cells of a row. Cells that the row doesn't have are missing."""

    place: str  # "line 12", "row 12"
    values: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A file with rows. `columns` is None for an empty file, and may contain a name twice."""

    columns: list[str] | None
    records: Callable[[Collection[str]], Iterator[Record]]  # returns the named columns; raises Unreadable


def format_of(uri: str) -> Format | None:
    """The format by the extension of a file, ignoring compression; None if it is unknown."""
    suffixes = [suffix.lower() for suffix in Path(uri).suffixes]
    plain = [suffix for suffix in suffixes if suffix not in _COMPRESSED]
    return _FORMATS.get(plain[-1]) if plain else None


def open_table(path: Path, file_format: Format, scratch: Path, wanted: Collection[str] = ()) -> Table:
    """Open the table in a file. Raises Unreadable or OSError.

    Columns of JSON lines are the union over all rows, from a pass over the file that stops when all `wanted` ones are
    found. `scratch`: folder for the decompressed copy of a Parquet file, which must be seekable.
    """
    match file_format:
        case "csv":
            return Table(_csv_columns(path), lambda names: _csv_records(path, names))
        case "jsonl":
            return Table(_json_columns(path, set(wanted)), lambda names: _json_records(path, names))
        case "parquet":
            plain = _decompressed(path, scratch)
            return Table(_parquet_columns(plain), lambda names: _parquet_records(plain, names))
        case never:
            assert_never(never)


# --- bytes ---


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file's decompressed content. Raises Unreadable if it is damaged."""
    try:
        with path.open("rb") as file:
            start = file.peek(16)[:16]
            if start.startswith(_GZIP):
                with gzip.GzipFile(fileobj=file) as content:
                    yield content  # type: ignore[misc]
            elif start.startswith(_ZSTD):
                import pyarrow  # slow to import, and needed only for this compression

                with pyarrow.input_stream(file, compression="zstd") as stream:
                    yield io.BufferedReader(stream)
            else:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Unreadable(f"the gzip stream is damaged or cut off: {error}") from error


@contextmanager
def _opened_text(path: Path) -> Iterator[Iterator[tuple[int, str]]]:
    """Numbered lines with their ends. Raises Unreadable for another format, by its first bytes."""
    with _opened(path) as content:
        start = content.peek(16)[:16]  # type: ignore[attr-defined]
        for magic, what in _REFUSED:
            if re.match(magic, start):
                raise Unreadable(f"the file {what}")
        if start.startswith(_PARQUET):
            raise Unreadable("the file is Parquet: set format to parquet")
        text = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="")
        yield _checked(text)


def _checked(text: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text, start=1):
        if "\0" in line:
            raise Unreadable(
                f"line {number}: a NUL byte: the file is not UTF-8 text; if it is UTF-16: iconv -f UTF-16LE -t UTF-8"
            )
        if not line.isascii():
            _check_utf8(number, line)
        yield number, line


def _check_utf8(number: int, line: str) -> None:
    try:
        line.encode()
    except UnicodeEncodeError as error:  # a byte that can't be decoded was read as a lone surrogate
        byte = ord(line[error.start]) - 0xDC00
        raise Unreadable(
            f"line {number}: byte 0x{byte:02x} is not UTF-8: convert the file; "
            "if it is Latin-1 or Windows-1252: iconv -f WINDOWS-1252 -t UTF-8"
        ) from None


def _decompressed(path: Path, scratch: Path) -> Path:
    with path.open("rb") as file:
        if not file.peek(4).startswith((_GZIP, _ZSTD)):
            return path
    plain = scratch / f"{path.name}.plain"
    with _opened(path) as content, plain.open("wb") as copy:
        shutil.copyfileobj(content, copy)
    return plain


# --- CSV, by RFC 4180 ---


@dataclass
class _Lines:
    """Lines for the csv module. Keeps the lines of the current row."""

    source: Iterator[tuple[int, str]]
    number: int = 0
    row: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        for number, line in self.source:
            self.number = number
            self.row.append(line)
            yield line


def _csv_columns(path: Path) -> list[str] | None:
    with _opened_text(path) as lines:
        header = next(_csv_rows(lines), None)
    if header is None:
        return None
    if not any(name.strip() for name in header[1]):
        raise Unreadable(f"line {header[0]}: the header names no column")
    return header[1]


def _csv_records(path: Path, names: Collection[str]) -> Iterator[Record]:
    with _opened_text(path) as lines:
        rows = _csv_rows(lines)
        _, header = next(rows)
        positions = {name: header.index(name) for name in names}
        for line, cells in rows:
            # With the csv module all cells are strings. A reader that guesses types would turn the label 007 into 7.
            yield Record(f"line {line}", {name: cells[position] for name, position in positions.items()})


def _csv_rows(numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    """Header and rows, each with the number of its first line. Raises Unreadable."""
    first = next(((number, line) for number, line in numbered if line.strip()), None)
    if first is None:
        return
    delimiter = _delimiter(first[1])
    lines = _Lines(chain([first], numbered), first[0] - 1)
    reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    spaced = re.compile(rf'{re.escape(delimiter)} +"(?!["{re.escape(delimiter)}\r\n]|$)')
    header: list[str] = []
    while True:
        begin = lines.number + 1
        lines.row.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            line = begin + _lines_before_broken_cell("".join(lines.row), delimiter)
            raise Unreadable(
                f"line {line}: a cell's opening quote (\") is never closed, or text follows the closing quote: "
                'write a quote inside a quoted cell twice ("")'
            ) from None
        if not cells:
            continue
        header = header or cells
        if len(cells) != len(header):
            raise Unreadable(
                f"line {begin}: {len(cells)} cells, but the header has {len(header)}: "
                f"put cells that contain {delimiter!r} or a line break into double quotes"
            )
        if begin > first[0] and [cells[0].removeprefix("\ufeff"), *cells[1:]] == header:
            raise Unreadable(f"line {begin} repeats the header: remove it; several files were probably joined")
        if any(cell.startswith(" ") for cell in cells) and spaced.search("".join(lines.row)):
            raise Unreadable(f"line {begin}: a space before a cell's opening quote makes the quote part of the text")
        yield begin, cells


def _delimiter(header: str) -> str:
    """The comma, unless the header has no comma and exactly one of the other common delimiters."""
    others = [delimiter for delimiter in _DELIMITERS if delimiter in header]
    return others[0] if "," not in header and len(others) == 1 else ","


def _lines_before_broken_cell(row: str, delimiter: str) -> int:
    mark = re.escape(delimiter)
    cell = re.compile(rf'(?:"[^"]*(?:""[^"]*)*"|[^"{mark}\r\n][^{mark}\r\n]*|)(?:{mark}|\r\n|\n|\r)')
    position = 0
    while (whole := cell.match(row, position)) and whole.end() < len(row):
        position = whole.end()
    return len(re.findall("\r\n|\r|\n", row[:position]))


# --- JSON lines ---


def _json_columns(path: Path, wanted: set[str]) -> list[str] | None:
    seen: dict[str, None] = {}
    empty = True
    for _, record in _json_rows(path):
        empty = False
        seen.update(dict.fromkeys(record))
        if wanted and wanted <= seen.keys():
            break
    return None if empty else list(seen)


def _json_records(path: Path, names: Collection[str]) -> Iterator[Record]:
    for place, record in _json_rows(path):
        yield Record(place, {name: record[name] for name in names if name in record})


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with _opened_text(path) as lines:
        filled = ((number, line) for number, line in lines if line.strip())
        first = next(filled, None)
        if first is not None and first[1].lstrip().startswith("["):
            yield from _json_array("".join([first[1], *(line for _, line in filled)]))
        else:
            for number, line in chain([first] if first else [], filled):
                yield f"line {number}", _json_row(f"line {number}", line.removeprefix("\ufeff"))  # of joined files


def _json_array(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file that is one JSON array. It is read into memory."""
    rows = _json(text, "the file starts as a JSON array, but")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise Unreadable(f"row {number} is not a JSON object")
        yield f"row {number}", row


def _json_row(place: str, line: str) -> dict[str, Any]:
    record = _json(line, place)
    if not isinstance(record, dict):
        raise Unreadable(f"{place} is not a JSON object: write one object per line")
    return record


def _json(text: str, place: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{place} is not JSON: {error}; write one object per line") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in record if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


# --- Parquet ---


def _parquet_columns(path: Path) -> list[str] | None:
    import pyarrow.parquet  # slow to import, and needed only for this format

    with pyarrow.parquet.ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def _parquet_records(path: Path, names: Collection[str]) -> Iterator[Record]:
    import pyarrow.parquet

    number = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        # Only the requested columns, as others may have a type that Python doesn't have.
        for batch in file.iter_batches(columns=list(names)):
            cells = [_parquet_cells(batch.column(name), name, number) for name in names]
            for values in zip(*cells, strict=True):
                number += 1
                yield Record(f"row {number}", dict(zip(names, values, strict=True)))


def _parquet_cells(column: Any, name: str, before: int) -> Iterator[Any]:
    import pyarrow

    if is_time := pyarrow.types.is_temporal(column.type) and not pyarrow.types.is_duration(column.type):
        column = column.cast(pyarrow.string())  # Python has no nanoseconds
    if pyarrow.types.is_floating(column.type) and not pyarrow.types.is_float64(column.type):
        # The shortest decimal that is read as the same number: 0.1, not 0.10000000149011612.
        yield from (float(str(value)) for value in column.to_numpy(zero_copy_only=False))
        return
    for number, scalar in enumerate(column, start=before + 1):
        try:
            value = _plain(scalar.as_py(maps_as_pydicts="strict"))
            if is_time and value is not None and value.startswith("<"):  # Arrow's words for a year above 32,767
                raise ValueError(value)
            yield value
        except UnicodeDecodeError as error:
            raise Unreadable(
                f"row {number}, column {name!r}: bytes that are not UTF-8 text ({error}): write them as text"
            ) from error
        except (ValueError, KeyError, OverflowError, NotImplementedError) as error:
            raise Unreadable(f"row {number}, column {name!r}, {column.type}: {error}") from error


def _plain(value: Any) -> Any:
    """Decode bytes, in which Spark and Hive write UTF-8 text, and remove null fields from objects.

    A Parquet column of objects has the fields of all rows, with null for missing ones, so that a tool call would get
    the arguments of other tools. TRL removes them too: https://github.com/huggingface/trl/pull/4178
    """
    match value:
        case bytes():
            return value.decode()
        case list():
            return [_plain(inner) for inner in value]
        case dict():
            return {key: _plain(inner) for key, inner in value.items() if inner is not None}
        case _:
            return value
