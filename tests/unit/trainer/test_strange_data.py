"""Whatever lies in a file of data, it is read or refused: it never ends a stage in a way that is tried again."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from driftloop.api.finetunejob import Columns, DataSource
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.prepare.sources import read_source
from parts import examples

FORMATS = ("csv", "jsonl", "parquet")
COLUMNS = ("prompt", "completion", "messages", "tools", "text")

keys = st.sampled_from(
    ["role", "content", "from", "value", "tool_calls", "function", "function_call", "name", "arguments", "type", "text"]
)
words = st.sampled_from(
    ["user", "assistant", "system", "tool", "human", "gpt", "function_call", "text", "[]", "{}", ""]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
records = st.dictionaries(st.sampled_from(COLUMNS), values | values.map(json.dumps), max_size=5)


@pytest.fixture
def folder(volume: Path) -> Path:
    return volume


def read(folder: Path, content: bytes, file_format: str, **columns: str) -> int:
    """How many rows; -1 where it was refused."""
    (folder / "d").write_bytes(content)
    source = DataSource.model_validate({"name": "s", "uri": "pvc://claim/d", "format": file_format})
    try:
        found = read_source(source.model_copy(update={"columns": Columns(**columns)}), "data", folder, "sft")
    except StageFailure as failure:
        return {78: -1}[failure.exit_code]
    for row in found.rows:
        assert row.prompt.strip()
        assert row.is_unicode
        assert row.normalised().key == row.key
        assert all(turn.content.strip() or turn.extra for turn in row.turns if turn.role == "assistant")
    return len(found.rows) + sum(found.dropped.values())


shared = examples(80, HealthCheck.function_scoped_fixture)


@given(st.lists(records, max_size=3), st.sampled_from(["", "messages", "prompt"]))
@shared
def test_no_json_is_too_strange(folder: Path, rows: list[dict[str, Any]], asked: str) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    assert read(folder, content, "jsonl", **({asked: asked} if asked else {})) in (-1, len(rows))


@given(st.lists(records, min_size=1, max_size=3))
@shared
def test_no_table_is_too_strange(folder: Path, rows: list[dict[str, Any]]) -> None:
    try:
        table = pa.Table.from_pylist(rows, schema=None)
        pq.write_table(table, folder / "table")
    except (pa.ArrowException, UnicodeError, TypeError, OverflowError):
        return  # Arrow has no type for it
    read(folder, (folder / "table").read_bytes(), "parquet")


def good(folder: Path) -> dict[str, bytes]:
    rows = [{"prompt": f"Frage {n}, äöü", "completion": 'say "yes"\nor no'} for n in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "good")
    lines = ['"Frage {n}, äöü","say ""yes""\nor no"\n'.replace("{n}", str(n)) for n in range(5)]
    return {
        "csv": ("prompt,completion\n" + "".join(lines)).encode(),
        "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
        "parquet": (folder / "good").read_bytes(),
    }


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
@given(st.data())
@shared
def test_a_damaged_file_is_read_or_refused(folder: Path, file_format: str, packed: Any, data: st.DataObject) -> None:
    content = bytearray(packed(good(folder)[file_format]))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    read(folder, bytes(content[:cut]), file_format)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_whole_file_is_read(folder: Path, file_format: str) -> None:
    assert read(folder, good(folder)[file_format], file_format) == 5
