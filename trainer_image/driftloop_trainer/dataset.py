"""The tokenised rows, a Parquet file that prepare writes and train reads, and the tokens that end an answer.

Parquet is what is stored: it takes a fraction of the bytes, and every release and every tool reads it. Training maps
the rows into memory from flat files on the node's disk: see flatrows.py.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from driftloop_trainer.disk import disk
from driftloop_trainer.flatrows import IGNORED, FlatRows, Tokens, flatten

__all__ = ["FILE", "IGNORED", "VALIDATION", "Dataset", "Tokens", "read_turn_ends", "write_dataset", "write_turn_ends"]

FILE = "train.parquet"
VALIDATION = "validation.parquet"  # the rows that are set aside, only with training.validation
TURN_ENDS = "turn_ends.json"
_GROUP_TOKENS = 1 << 22  # tokens in a row group: what is in memory while a file is written
_NUMBERS = ("input_ids", "labels", "segments")
_TYPES = dict.fromkeys(_NUMBERS, pa.list_(pa.int32())) | {"rows": pa.list_(pa.string()), "good": pa.bool_()}


class Dataset:
    """Sequences of tokens with their labels. With packing a sequence has several rows; a pair is a sequence of two.

    For kto a sequence has an answer and the answer of another row, and `good` tells the labels: bool, (sequences,).
    `lengths`: tokens per sequence. `trained`: tokens per sequence that count in the loss. Both int64, (sequences,).
    `packed`: whether any sequence has several rows. A model that computes several data sets sets it alike for them.
    All arrays are read-only, and mapped: they take no memory of this process.
    """

    def __init__(self, path: Path, flat: Path | None = None) -> None:
        """`path`: the Parquet file. `flat`: its rows as `flatten` wrote them; None: a copy of this process's own."""
        self._path = path
        self._rows = _own_copy(path) if flat is None else FlatRows.open(flat)
        self.lengths, self.trained, self.good = self._rows.lengths, self._rows.trained, self._rows.good
        self.packed = len(self._rows.segments) > len(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def ids(self, index: int) -> Tokens:
        """Token ids of a sequence."""
        return self._rows.ids[self._rows.offsets[index] : self._rows.offsets[index + 1]]

    def labels(self, index: int) -> Tokens:
        """Labels of a sequence: for each token its id, or IGNORED."""
        return self._rows.labels[self._rows.offsets[index] : self._rows.offsets[index + 1]]

    def segments(self, index: int) -> Tokens:
        """Lengths of the rows in a sequence."""
        return self._rows.segments[self._rows.segment_offsets[index] : self._rows.segment_offsets[index + 1]]

    def parts(self, index: int) -> list[tuple[Tokens, Tokens]]:
        """Token ids and labels of each row in a sequence."""
        borders = self.segments(index).cumsum()[:-1]
        ids, labels = (np.split(tokens, borders) for tokens in (self.ids(index), self.labels(index)))
        return list(zip(ids, labels, strict=True))

    def rows(self, indices: Sequence[int]) -> list[str]:
        """Where users find the rows of these sequences: source and place, for messages. Read from the file each time.

        If the file does not know it, as those of older versions, its own rows are named.
        """
        with pq.ParquetFile(self._path, memory_map=True) as file:
            if "rows" not in file.schema_arrow.names:
                return [f"{FILE}, row {index}" for index in indices]
            return [name for index in indices for name in _places(file, int(index))]


def write_dataset(
    folder: Path,
    ids: Iterable[Sequence[int] | Tokens],
    labels: Iterable[Sequence[int] | Tokens],
    segments: Iterable[Sequence[int]],
    rows: Iterable[Sequence[str]] | None = None,
    good: Iterable[bool] | None = None,
    name: str = FILE,
) -> None:
    """Write the file `name` into `folder`. Each argument has one list per sequence, and no list is empty.

    `rows`: for each segment where users find its row, if that is known. `good`: the label of each sequence, for kto.
    Only some sequences are in memory at a time.
    """
    given = {"input_ids": ids, "labels": labels, "segments": segments, "rows": rows, "good": good}
    columns = {column: _compact(values, column) for column, values in given.items() if values is not None}
    schema = pa.schema([(column, _TYPES[column]) for column in columns])
    with pq.ParquetWriter(folder / name, schema, compression="zstd") as file:
        for group in _groups(zip(*columns.values(), strict=True)):
            arrays = [_array(values, kind) for values, kind in zip(zip(*group, strict=True), schema.types, strict=True)]
            file.write_batch(pa.record_batch(arrays, schema=schema))


def write_turn_ends(folder: Path, tokens: Sequence[int]) -> None:
    """Write the tokens that end answers, the most frequent first. Generation will stop at them too."""
    (folder / TURN_ENDS).write_text(json.dumps(list(tokens)))


def read_turn_ends(folder: Path) -> list[int]:
    """Read what `write_turn_ends` wrote; an empty list for a folder from an older version, without the file."""
    path = folder / TURN_ENDS
    return [int(token) for token in json.loads(path.read_text())] if path.exists() else []


def _own_copy(path: Path) -> FlatRows:
    """The rows in flat files that are deleted at once: they stay on the disk until the process ends."""
    with tempfile.TemporaryDirectory(prefix="rows-", dir=disk()) as folder:
        flatten(path, Path(folder))
        return FlatRows.open(Path(folder))


def _places(file: pq.ParquetFile, index: int) -> list[str]:
    """The names of a sequence's rows. Only its row group is read."""
    for number in range(file.num_row_groups):
        count = file.metadata.row_group(number).num_rows
        if index < count:
            return list(file.read_row_group(number, columns=["rows"]).column("rows")[index].as_py())
        index -= count
    raise IndexError(index)


def _compact(values: Iterable[Any], column: str) -> Iterable[Any]:
    """The lists of numbers as arrays, one by one."""
    return (np.asarray(value, np.int32) for value in values) if column in _NUMBERS else values


def _groups(sequences: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """The sequences in groups of about `_GROUP_TOKENS` tokens. Their token ids are first."""
    group: list[tuple[Any, ...]] = []
    tokens = 0
    for sequence in sequences:
        group.append(sequence)
        tokens += len(sequence[0])
        if tokens >= _GROUP_TOKENS:
            yield group
            group, tokens = [], 0
    if group:
        yield group


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind != _TYPES["input_ids"]:
        return pa.array(values, kind)
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, np.concatenate(values))
