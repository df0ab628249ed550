"""Rows are durable when they are acknowledged, in files that only grow."""

import asyncio
import json
import time
from pathlib import Path

import fsspec
import pytest

from driftloop_server.proxy import segments
from driftloop_server.proxy.segments import Segments


@pytest.fixture
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIFTLOOP_VOLUMES", str(tmp_path))
    return tmp_path


def read(folder: Path) -> list[list[int]]:
    """The rows' numbers, a list a file, in the order of the files' names."""
    return [[json.loads(line)["n"] for line in f.read_text().splitlines()] for f in sorted(folder.glob("*.jsonl"))]


async def test_rows_of_many_writers_are_whole_and_in_full_segments(
    volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MAX_ROWS", 10)
    store = Segments("pvc://claim/desk", "pod-a")
    for start in range(0, 60, 6):
        await asyncio.gather(*(store.append("v1", {"n": n, "text": "é\n"}) for n in range(start, start + 6)))
    found = read(volumes / "claim/desk/v1/pod-a")
    assert [number for file in found for number in file] == list(range(60))
    assert len(found) == 5  # a batch is not divided: 12 rows a file


async def test_each_version_and_each_start_has_files_of_its_own(volumes: Path) -> None:
    for _ in range(3):
        store = Segments("pvc://claim/desk", "pod-a")  # the container was restarted
        await store.append("v1", {"n": 1})
        await store.append("v2", {"n": 2})
    assert read(volumes / "claim/desk/v1/pod-a") == [[1]] * 3
    assert read(volumes / "claim/desk/v2/pod-a") == [[2]] * 3


async def test_a_clock_that_stands_still_or_goes_back_costs_no_row(
    volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nanoseconds in (5_000_000_000, 5_000_000_000, 4_999_000_000):
        monkeypatch.setattr(time, "time_ns", lambda now=nanoseconds: now)
        await Segments("pvc://claim/desk", "pod-a").append("v1", {"n": 1})
    assert read(volumes / "claim/desk/v1/pod-a") == [[1]] * 3


async def test_old_segments_are_closed(volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Segments("pvc://claim/desk", "pod-a")
    await store.append("v1", {"n": 1})
    monkeypatch.setattr(segments, "MAX_SECONDS", 0)
    await store.append("v1", {"n": 2})
    assert read(volumes / "claim/desk/v1/pod-a") == [[1], [2]]


async def test_after_a_failed_write_a_new_file_begins(volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one may end in half a line, and what is appended to that is lost too."""
    store = Segments("pvc://claim/desk", "pod-a")
    await store.append("v1", {"n": 1})
    with monkeypatch.context() as patch:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            await store.append("v1", {"n": 2})
    await store.append("v1", {"n": 3})
    assert read(volumes / "claim/desk/v1/pod-a")[-1] == [3]


async def test_objects_in_a_store_hold_all_rows_of_their_segment() -> None:
    fs = fsspec.filesystem("memory")
    store = Segments("memory://bucket/desk", "pod-a")
    for n in range(3):
        await store.append("v1", {"n": n})
    (path,) = fs.glob("/bucket/desk/v1/pod-a/*.jsonl")
    assert [json.loads(line)["n"] for line in fs.cat_file(path).splitlines()] == [0, 1, 2]


async def test_the_names_of_new_folders_are_as_durable_as_the_rows(
    volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(segments, "_sync", synced.append)
    (volumes / "claim").mkdir()
    store = Segments("pvc://claim/desk", "pod-a")
    await store.append("v1", {"n": 1})
    folders = ["claim/desk/v1/pod-a", "claim/desk/v1", "claim/desk", "claim"]
    assert sorted(synced) == sorted(volumes / folder for folder in folders)
