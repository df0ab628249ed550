"""The rows of a Parquet file as flat files, which processes map into memory and share.

A column is a file of numbers without a header. Its pages are read from the disk when they are needed, are there once
for all processes of the node, and the kernel drops them when memory is short. Parquet is compressed, so each process
would hold its own copy of all rows.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from driftloop_trainer.disk import room

IGNORED = -100  # label of tokens that don't count in the loss, as in torch and transformers
Tokens = npt.NDArray[np.int32]
Numbers = npt.NDArray[np.int64]

_BATCH_TOKENS, _BATCH_ROWS = 1 << 20, 4096  # decoded at a time; the rows limit what a run of long ones takes
_TYPES: dict[str, type[np.generic]] = {
    "ids": np.int32,
    "labels": np.int32,
    "segments": np.int32,
    "offsets": np.int64,
    "segment_offsets": np.int64,
    "lengths": np.int64,
    "trained": np.int64,
    "good": np.bool_,
}
_LISTS = {"input_ids": "ids", "labels": "labels", "segments": "segments"}
_LABEL = "good"
_ENDS = 16  # bytes of the two offsets before the first row


@dataclass(frozen=True, slots=True)
class FlatRows:
    """Columns in memory that is mapped. `offsets` and `segment_offsets` have the start of each sequence, and the end.

    `trained`: tokens per sequence that count in the loss. `good`: empty without labels.
    """

    ids: Tokens
    labels: Tokens
    segments: Tokens
    offsets: Numbers
    segment_offsets: Numbers
    lengths: Numbers
    trained: Numbers
    good: npt.NDArray[np.bool_]

    @classmethod
    def open(cls, folder: Path) -> "FlatRows":
        """The columns that `flatten` has written. The folder may be deleted while they are in use."""
        return cls(**{name: _mapped(folder / name, kind) for name, kind in _TYPES.items()})


def flatten(parquet: Path, folder: Path) -> None:
    """Write the rows of a Parquet file into an empty folder, some at a time. Raises StageFailure on a full disk."""
    # Mapped, as a reader keeps all that it has read of an unmapped file until its end (not reported).
    with pq.ParquetFile(parquet, memory_map=True) as file, room(folder, flat_bytes(file), "the training rows"):
        labelled = [_LABEL] if _LABEL in file.schema_arrow.names else []
        with ExitStack() as stack:
            files = {name: stack.enter_context((folder / name).open("wb")) for name in _TYPES}
            for name in ("offsets", "segment_offsets"):
                files[name].write(np.zeros(1, np.int64).data)
            for columns in _columns(file.iter_batches(_batch_rows(file), columns=[*_LISTS, *labelled])):
                for name, values in columns.items():
                    files[name].write(np.ascontiguousarray(values, _TYPES[name]).data)
    pa.default_memory_pool().release_unused()


def flat_bytes(file: pq.ParquetFile) -> int:
    """Bytes of the flat files; without labels a byte per row less."""
    values = sum(_values(file, column) for column in _LISTS)
    per_row = sum(np.dtype(kind).itemsize for name, kind in _TYPES.items() if name not in _LISTS.values())
    return values * np.dtype(np.int32).itemsize + int(file.metadata.num_rows) * per_row + _ENDS


def _values(file: pq.ParquetFile, column: str) -> int:
    """Number of values in all lists of a column, from the file's metadata."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    leaves = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(int(leaf.num_values) for leaf in leaves if leaf.path_in_schema.split(".")[0] == column)


def _batch_rows(file: pq.ParquetFile) -> int:
    tokens = max(1, _values(file, "input_ids"))
    return max(1, min(_BATCH_ROWS, _BATCH_TOKENS * int(file.metadata.num_rows) // tokens))


def _columns(batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """What each batch adds to the columns."""
    ends = {"ids": 0, "segments": 0}
    for batch in batches:
        lists = {name: batch.column(column) for column, name in _LISTS.items()}
        columns = {name: values.flatten().to_numpy() for name, values in lists.items()}
        columns["lengths"] = lists["ids"].value_lengths().to_numpy().astype(np.int64)
        starts = columns["lengths"].cumsum() - columns["lengths"]
        columns["trained"] = np.add.reduceat(columns["labels"] != IGNORED, starts, dtype=np.int64)
        columns["offsets"] = ends["ids"] + columns["lengths"].cumsum()
        segments = lists["segments"].value_lengths().to_numpy()
        columns["segment_offsets"] = ends["segments"] + segments.cumsum(dtype=np.int64)
        ends = {"ids": columns["offsets"][-1], "segments": columns["segment_offsets"][-1]}
        if _LABEL in batch.schema.names:
            columns["good"] = batch.column(_LABEL).to_numpy(zero_copy_only=False)
        yield columns


def _mapped(path: Path, kind: type[np.generic]) -> npt.NDArray[Any]:
    if not path.stat().st_size:
        return np.zeros(0, kind)
    return np.asarray(np.memmap(path, kind, mode="r"))
