"""Rows come back as they were written, whatever their number, and neither writing nor reading holds them in memory."""

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from driftloop_trainer import dataset
from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.flatrows import flatten

ROWS, LENGTH = 4096, 1024
LARGE = ROWS * LENGTH * 2 * 4  # bytes of the ids and labels of `large`

# What reading all rows of the last file takes of a process's own memory, in KiB: the anonymous one, which the kernel
# can't drop. argv: two Parquet files, each with its flat rows.
READ = """
import sys
from pathlib import Path
from driftloop_trainer.dataset import Dataset

def own():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

small, large = ((Path(path), Path(flat)) for path, flat in (sys.argv[1:3], sys.argv[3:5]))
Dataset(*small).ids(0).sum()
before, data = own(), Dataset(*large)
tokens = sum(len(data.ids(index)) + int(data.labels(index).sum() > 0) for index in range(len(data)))
assert tokens >= data.lengths.sum() >= data.trained.sum() > 0
print(own() - before)
"""


def sequences(count: int, length: int) -> Iterator[npt.NDArray[np.int32]]:
    generator = np.random.default_rng(0)
    return (generator.integers(1, 50_000, length, dtype=np.int32) for _ in range(count))


def write(folder: Path, count: int, length: int = LENGTH) -> Path:
    folder.mkdir(exist_ok=True)
    write_dataset(folder, sequences(count, length), sequences(count, length), ([length] for _ in range(count)))
    return folder / FILE


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIFTLOOP_DISK", str(tmp_path))
    return tmp_path


def test_rows_of_several_groups_come_back_as_they_were(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_GROUP_TOKENS", 8)
    random = np.random.default_rng(1)
    segments = [random.integers(1, 5, random.integers(1, 4)).tolist() for _ in range(40)]
    ids = [random.integers(1, 90, sum(lengths)).tolist() for lengths in segments]
    labels = [[IGNORED, *row[1:]] for row in ids]
    names = [[f"source s, line {index}.{part}" for part in range(len(segments[index]))] for index in range(40)]
    good = [bool(index % 3) for index in range(40)]
    write_dataset(disk, ids, labels, segments, names, good)
    assert pq.ParquetFile(disk / FILE).num_row_groups > 5

    data = Dataset(disk / FILE)
    every = range(len(data))
    assert [data.ids(index).tolist() for index in every] == ids
    assert [data.labels(index).tolist() for index in every] == labels
    assert [data.segments(index).tolist() for index in every] == segments
    assert data.lengths.tolist() == [len(row) for row in ids]
    assert data.trained.tolist() == [len(row) - 1 for row in ids]
    assert data.good.tolist() == good
    assert data.packed
    assert data.rows([39, 0, 17]) == [*names[39], *names[0], *names[17]]


def test_a_file_of_an_earlier_release_is_read(disk: Path) -> None:
    """They wrote one table with all rows, of which the first did not have their places."""
    ids, labels, lists = [[5, 6, 7], [8, 9]], [[IGNORED, 6, 7], [IGNORED, 9]], pa.list_(pa.int32())
    table = pa.table(
        {
            "input_ids": pa.array(ids, lists),
            "labels": pa.array(labels, lists),
            "segments": pa.array([[3], [2]], lists),
        }
    )
    pq.write_table(table, disk / FILE, compression="zstd")
    data = Dataset(disk / FILE)
    assert [data.ids(index).tolist() for index in (0, 1)] == ids
    assert [data.labels(index).tolist() for index in (0, 1)] == labels
    assert (data.lengths.tolist(), data.trained.tolist(), data.good.tolist()) == ([3, 2], [2, 1], [])
    assert not data.packed
    assert data.rows([1]) == [f"{FILE}, row 1"]


def test_an_earlier_release_can_read_the_file(disk: Path) -> None:
    """An image of a user's own may be built from it."""
    table = pq.read_table(write(disk, 3, 4), columns=["input_ids", "labels", "segments"]).combine_chunks()
    lists = table.column("input_ids").chunk(0)
    assert lists.offsets.to_pylist() == [0, 4, 8, 12]
    assert lists.values.to_numpy().tolist() == [int(token) for row in sequences(3, 4) for token in row]


def test_the_memory_of_a_process_does_not_grow_with_the_rows(disk: Path) -> None:
    files = [write(disk / "small", 2), write(disk / "large", ROWS)]
    for file in files:
        (file.parent / "flat").mkdir()
        flatten(file, file.parent / "flat")
    paths = [str(path) for file in files for path in (file, file.parent / "flat")]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-c", READ, *paths]
    read = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=False, timeout=120)
    assert read.returncode == 0, read.stderr.decode()
    assert int(read.stdout) << 10 < LARGE / 16


def test_only_some_rows_are_in_memory_while_a_file_is_written(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_GROUP_TOKENS", LENGTH * 16)
    write(disk, 2)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    tracemalloc.start()
    write(disk, ROWS)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < LARGE / 16
    assert pool.bytes_allocated() - before < LARGE / 16


def test_a_copy_of_a_process_s_own_is_not_left_on_the_disk(disk: Path) -> None:
    path = write(disk, 2)
    data = Dataset(path)
    assert [entry.name for entry in disk.iterdir()] == [FILE]
    assert len(data.ids(1)) == LENGTH
