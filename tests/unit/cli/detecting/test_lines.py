"""Lines of files and of standard input: bounds, encodings, and sources that can't be read."""

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.cli.detecting import lines as module
from driftloop.cli.detecting.lines import Numbered, _contents, lines
from driftloop.cli.detecting.requests import Unreadable
from driftloop.cli.manifests import BadInput


def test_the_lines_of_files_are_numbered_in_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\ntwo\r\n")
    (tmp_path / "b").write_bytes(b"three")
    found = list(lines([str(tmp_path / "a"), str(tmp_path / "b")]))
    assert [(line.number, line.content) for line in found] == [(1, "one"), (2, "two"), (1, "three")]


def test_standard_input_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n")))
    assert list(lines(["-"])) == [Numbered("standard input", 1, "one")]


def test_a_line_that_is_too_long_or_not_unicode_is_told_and_the_next_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 8)
    found = list(_contents(io.BytesIO(b"x" * 50 + b"\nshort\n\xff\n1234567\n12345678")))
    told = Unreadable("longer than 0 MiB")
    assert found == [told, "short", Unreadable("not UTF-8"), "1234567", told]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="gone: No such file"):
        list(lines([str(tmp_path / "gone")]))


@given(st.binary(max_size=200))
def test_any_bytes_are_lines(content: bytes) -> None:
    found = list(_contents(io.BytesIO(content)))
    assert len(found) == content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
