import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from driftloop.api.finetunejob import Columns, DataSource
from driftloop.contract.storage import StorageError
from driftloop_trainer.failure import StageFailure
from driftloop_trainer.prepare.rows import Row, Turn
from driftloop_trainer.prepare.sources import read_source


@pytest.fixture(autouse=True)
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIFTLOOP_VOLUMES", str(tmp_path))
    (tmp_path / "c").mkdir()
    return tmp_path / "c"


def read(name: str, tmp_path: Path, **columns: str) -> list[Row]:
    return read_source(DataSource(name="s", uri=f"pvc://c/{name}", columns=Columns(**columns)), "data", tmp_path)


def test_the_three_formats_give_the_same_rows(volume: Path, tmp_path: Path) -> None:
    records = [{"q": 'Say "hi",\nplease', "a": "007"}, {"q": "Übung", "a": "x"}]
    (volume / "d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (volume / "d.csv").write_text('\ufeffq,a\n"Say ""hi"",\nplease",007\nÜbung,x\n')
    pq.write_table(pa.Table.from_pylist(records), volume / "d.parquet")
    expected = [Row.answering("data", "s", record["q"], record["a"]) for record in records]
    for name in ("d.jsonl", "d.csv", "d.parquet"):
        assert read(name, tmp_path, prompt="q", completion="a") == expected


def test_customary_columns_are_found_by_name(volume: Path, tmp_path: Path) -> None:
    (volume / "d.csv").write_text("text\nhello\n")
    assert read("d.csv", tmp_path) == [Row("data", "s", text="hello")]


def test_a_conversation_keeps_its_turns(volume: Path, tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
    ]
    (volume / "d.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    [row] = read("d.jsonl", tmp_path)
    assert row == Row.answering("data", "s", "hi", "hello", history=(Turn("system", "be kind"),))
    assert row.key == Row.answering("data", "s", "hi", "other").key


def test_a_missing_column_is_named_with_those_that_are_there(volume: Path, tmp_path: Path) -> None:
    (volume / "d.csv").write_text("text,category\nhello,x\n")
    with pytest.raises(
        StageFailure, match=r"WrongColumn: source s: no column 'label'; the file has 'text', 'category'"
    ):
        read("d.csv", tmp_path, prompt="text", completion="label")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", b'{"text": "a"}\n{"text": \n', "line 2"),
        ("d.csv", b"text\n\xff\xfe\n", "decode"),
        ("d.parquet", b"no parquet", "Parquet"),
        ("d.jsonl", b'{"messages": "[{}]"}\n', "role and content"),
    ],
)
def test_a_file_that_does_not_read_says_where(
    volume: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (volume / name).write_bytes(content)
    with pytest.raises(StageFailure, match=f"DataUnreadable: source s, pvc://c/{name}: .*{message}"):
        read(name, tmp_path)


def test_a_file_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"pvc://c/none\.csv: no such file"):
        read("none.csv", tmp_path)


def test_an_unknown_ending_asks_for_the_format(volume: Path, tmp_path: Path) -> None:
    (volume / "d.txt").write_text("hello")
    with pytest.raises(StageFailure, match="UnknownFormat: source s: set format"):
        read("d.txt", tmp_path)
