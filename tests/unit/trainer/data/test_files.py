import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.data.cells import Unreadable, cell_text
from driftloop_trainer.data.files import Format, Record, format_of, open_table

ROWS = [{"q": "how long?", "a": "3 days"}, {"q": "Übung", "a": "x"}]
CSV = "q,a\nhow long?,3 days\nÜbung,x\n"
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def read(path: Path, file_format: Format, *names: str) -> list[Record]:
    table = open_table(path, file_format, path.parent)
    assert table.columns is not None
    return list(table.records(names or list(dict.fromkeys(table.columns))))


def values(path: Path, file_format: Format, *names: str) -> list[dict[str, Any]]:
    return [record.values for record in read(path, file_format, *names)]


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "d"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("packed", [lambda content: content, gzip.compress, zstd])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_text_reads_the_same_with_a_mark_and_compressed(tmp_path: Path, packed: Any, mark: bytes) -> None:
    assert values(write(tmp_path, packed(mark + CSV.encode())), "csv") == ROWS
    assert values(write(tmp_path, packed(mark + JSONL.encode())), "jsonl") == ROWS


def test_joined_files_may_each_begin_with_a_mark(tmp_path: Path) -> None:
    marked = codecs.BOM_UTF8 + JSONL.encode()
    assert values(write(tmp_path, marked + marked), "jsonl") == [*ROWS, *ROWS]


@pytest.mark.parametrize("packed", [gzip.compress, zstd])
def test_parquet_reads_compressed(tmp_path: Path, packed: Any) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "plain")
    assert values(write(tmp_path, packed((tmp_path / "plain").read_bytes())), "parquet") == ROWS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/d.csv", "csv"),
        ("d.TSV", "csv"),
        ("v1.2/d.jsonl.gz", "jsonl"),
        ("d.parquet.zst", "parquet"),
        ("d.ndjson.bz2", "jsonl"),
        ("d.json", "jsonl"),
        ("d.txt", None),
        ("d", None),
    ],
)
def test_the_ending_tells_the_format(name: str, expected: str | None) -> None:
    assert format_of(f"s3://bucket/{name}") == expected


def archive(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("d.csv", content)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("packed", "named"),
    [
        (bz2.compress, "bzip2"),
        (lzma.compress, "xz"),
        (archive, "zip archive or an Excel workbook"),
        (lambda content: content.decode().encode("utf-16"), "UTF-16"),
        (lambda content: content.decode().encode("utf-16-le"), "UTF-16"),
        (lambda content: content.decode().encode("utf-32"), "UTF-32"),
        (lambda content: gzip.compress(content.decode().encode("utf-16")), "UTF-16"),
        (lambda content: content.decode().encode("latin-1"), "line 3: byte 0xdc is not UTF-8.*WINDOWS-1252"),
        (lambda content: gzip.compress(content)[:-9], "gzip stream is damaged or cut off"),
        (lambda content: zstd(content)[:-3], "Truncated"),
        (lambda content: b"PAR1" + content, "set format to parquet"),
        (lambda content: content + b"a\0b,c\n", "line 4: a NUL byte"),
    ],
)
def test_other_bytes_are_refused_by_name(tmp_path: Path, packed: Any, named: str) -> None:
    with pytest.raises((Unreadable, OSError), match=named):
        read(write(tmp_path, packed(CSV.encode())), "csv")


# --- CSV ---


def test_a_row_is_known_by_the_line_it_begins_in(tmp_path: Path) -> None:
    found = read(write(tmp_path, '\nq,a\r\n"two\r\nlines",x\r\n\r\nlast,"say ""y"""'), "csv")
    assert [(record.place, record.values["q"], record.values["a"]) for record in found] == [
        ("line 3", "two\r\nlines", "x"),
        ("line 6", "last", 'say "y"'),
    ]


def test_quotes_and_spaces_inside_a_quoted_cell_are_text(tmp_path: Path) -> None:
    cells = [' "x" said', 'he said, "', ", ", ' "', "a  b"]
    path = tmp_path / "d"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["q", "a"], *([cell, cell] for cell in cells)])
    assert [row["q"] for row in values(path, "csv")] == cells


def test_a_cell_may_be_a_book(tmp_path: Path) -> None:
    book = "word " * 100_000
    assert values(write(tmp_path, f"q,a\n{book},x\n"), "csv") == [{"q": book, "a": "x"}]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_told_by_a_header_without_commas(tmp_path: Path, delimiter: str) -> None:
    assert values(write(tmp_path, f"q{delimiter}a\n1, 2{delimiter}x\n"), "csv") == [{"q": "1, 2", "a": "x"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q,a\nx,y\none, two,z\n", "line 3: 3 cells, but the header has 2"),
        ('q,a\n"two\nlines",y\nonly\n', "line 4: 1 cells, but the header has 2"),
        ("q;a\n1;2\n1;2;3\n", "line 3: 3 cells.*';'"),
        ('q,a\nx,y\n"open,y\nx,y\nx,y\n', "line 3: a cell's opening quote"),
        ('q,a\n"closed\ntwice",y\n"x","open\nx,y\n', "line 4: a cell's opening quote"),
        ('q,a\n"two\nlines","open\nx,y\n', "line 3: a cell's opening quote"),
        ('q,a\n"open,y\nx,"y"\n', "line 2: a cell's opening quote"),
        ('q,a\n"5" screen",y\n', "line 2: a cell's opening quote"),
        (" , \nx,y\n", "line 1: the header names no column"),
        ('q,a\nx,y\nx, "y"\n', "line 3: a space before a cell's opening quote"),
        ("q,a\nx,y\nq,a\nx,y\n", "line 3 repeats the header"),
        ("\ufeffq,a\nx,y\n\ufeffq,a\nx,y\n", "line 3 repeats the header"),
    ],
)
def test_a_row_that_is_in_doubt_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read(write(tmp_path, content), "csv")


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=2, max_size=2),
        min_size=1,
    )
)
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "d"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["q", "a"], *rows])
    assert [list(found.values()) for found in values(path, "csv")] == rows


# --- JSON lines ---


def test_columns_are_those_of_all_rows(tmp_path: Path) -> None:
    path = write(tmp_path, '{"q": "a"}\n\n{"q": "b", "a": "c"}\n')
    table = open_table(path, "jsonl", tmp_path)
    assert table.columns == ["q", "a"]
    assert list(table.records(["a"])) == [Record("line 1", {}), Record("line 3", {"a": "c"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"q": "a"}\n{"q": \n', "line 2 is not JSON.*one object per line"),
        ('{"q": "a"}\n["q"]\n', "line 2 is not a JSON object"),
        ('["q"]\n{"q": "a"}\n', "starts as a JSON array, but is not JSON: Extra data"),
        ('[{"q": "a"},\n"q"]\n', "row 2 is not a JSON object"),
        ('{"q": "a"}{"q": "b"}\n', "line 1 is not JSON"),
        ('{"q": "a", "q": "b"}\n', "line 1.*the key 'q' occurs twice"),
        ('{"q": "a"}\n' + "[" * 200_000 + "\n", "line 2 is not JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read(write(tmp_path, content), "jsonl")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_of_objects_reads_as_lines_do(tmp_path: Path, indent: int | None) -> None:
    found = read(write(tmp_path, json.dumps(ROWS, indent=indent)), "jsonl")
    assert [(record.place, record.values) for record in found] == [("row 1", ROWS[0]), ("row 2", ROWS[1])]


def test_a_separator_of_lines_inside_a_text_is_none_of_the_file(tmp_path: Path) -> None:
    assert values(write(tmp_path, '{"q": "a\u2028b\u0085c"}\n'), "jsonl") == [{"q": "a\u2028b\u0085c"}]


# --- Parquet ---


def parquet(folder: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), folder / "d")
    return folder / "d"


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_a_number_is_the_decimal_that_was_written_however_narrow_its_column(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(np.array([0.1, 2.5, 7.0, math.nan]).astype(kind.to_pandas_dtype()))
    found = [cell_text(row["q"]) for row in values(parquet(tmp_path, q=column), "parquet")]
    assert found == ["0.1", "2.5", "7.0", None]


@pytest.mark.parametrize(
    "type_",
    [pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())],
)
def test_text_reads_whatever_holds_it(tmp_path: Path, type_: pa.DataType) -> None:
    texts = ["Übung", None, ""]
    encoded = [None if text is None else text.encode() for text in texts]
    array = pa.array(encoded if "binary" in str(type_) else texts, type_)
    assert [row["q"] for row in values(parquet(tmp_path, q=array), "parquet")] == texts


def test_a_column_that_is_not_wanted_may_be_of_any_type(tmp_path: Path) -> None:
    path = parquet(tmp_path, q=pa.array(["a"]), when=pa.array([1], pa.timestamp("ns")), raw=pa.array([b"\xff"]))
    assert values(path, "parquet", "q") == [{"q": "a"}]
    assert values(path, "parquet", "when") == [{"when": "1970-01-01 00:00:00.000000001"}]


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.list_(pa.timestamp("us")), pa.duration("s")])
def test_a_time_that_nothing_spells_is_refused(tmp_path: Path, kind: pa.DataType) -> None:
    far = [2**62] if pa.types.is_list(kind) else 2**62
    with pytest.raises(Unreadable, match="row 2, column 'when'"):
        read(parquet(tmp_path, when=pa.array([None, far], kind)), "parquet")


def test_objects_lose_the_fields_that_they_lack_and_maps_are_objects(tmp_path: Path) -> None:
    structs = pa.array([[{"role": b"user", "name": None}, {"role": b"tool", "name": "f"}]])
    maps = pa.array([[[("role", "user"), ("content", "hi")]]], pa.list_(pa.map_(pa.string(), pa.string())))
    [row] = values(parquet(tmp_path, structs=structs, maps=maps), "parquet")
    assert row["structs"] == [{"role": "user"}, {"role": "tool", "name": "f"}]
    assert row["maps"] == [{"role": "user", "content": "hi"}]


def test_bytes_that_are_no_text_are_refused_with_row_and_column(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="row 2, column 'q': bytes that are not UTF-8"):
        read(parquet(tmp_path, q=pa.array([b"a", b"\xff"])), "parquet")


def test_a_twice_named_column_is_told_twice(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["q", "q"]), tmp_path / "d")
    assert open_table(tmp_path / "d", "parquet", tmp_path).columns == ["q", "q"]
    assert open_table(write(tmp_path, "q,q\na,b\n"), "csv", tmp_path).columns == ["q", "q"]


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_an_empty_file_has_no_columns(tmp_path: Path, file_format: Format) -> None:
    assert open_table(write(tmp_path, "\n \n"), file_format, tmp_path).columns is None
