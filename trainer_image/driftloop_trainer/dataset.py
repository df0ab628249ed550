"""The tokenised rows, a Parquet file that prepare writes and train reads, and the tokens that end an answer."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

FILE = "train.parquet"
VALIDATION = "validation.parquet"  # the rows that are set aside, only with training.validation
TURN_ENDS = "turn_ends.json"
IGNORED = -100  # label of tokens that don't count in the loss, as in torch and transformers
Tokens = npt.NDArray[np.int32]


class Dataset:
    """Sequences of tokens with their labels. With packing a sequence has several rows; a pair is a sequence of two.

    For kto a sequence has an answer and the answer of another row, and `good` tells the labels: bool, (sequences,).
    `lengths`: tokens per sequence. `trained`: tokens per sequence that count in the loss. Both int64, (sequences,).
    `packed`: whether any sequence has several rows. A model that computes several data sets sets it alike for them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        labelled = ["good"] if "good" in pq.read_schema(path).names else []
        table = pq.read_table(path, columns=["input_ids", "labels", "segments", *labelled]).combine_chunks()
        self._ids, offsets = _flat(table, "input_ids")
        self._labels, _ = _flat(table, "labels")
        self._segments, self._segment_offsets = _flat(table, "segments")
        self._offsets = offsets
        self.lengths = np.diff(offsets)
        self.trained = np.add.reduceat(self._labels != IGNORED, offsets[:-1], dtype=np.int64)
        self.good = table.column("good").to_numpy() if labelled else np.zeros(0, np.bool_)
        self.packed = len(self._segments) > len(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def ids(self, index: int) -> Tokens:
        """Token ids of a sequence."""
        return self._ids[self._offsets[index] : self._offsets[index + 1]]

    def labels(self, index: int) -> Tokens:
        """Labels of a sequence: for each token its id, or IGNORED."""
        return self._labels[self._offsets[index] : self._offsets[index + 1]]

    def segments(self, index: int) -> Tokens:
        """Lengths of the rows in a sequence."""
        return self._segments[self._segment_offsets[index] : self._segment_offsets[index + 1]]

    def parts(self, index: int) -> list[tuple[Tokens, Tokens]]:
        """Token ids and labels of each row in a sequence."""
        borders = self.segments(index).cumsum()[:-1]
        ids, labels = (np.split(tokens, borders) for tokens in (self.ids(index), self.labels(index)))
        return list(zip(ids, labels, strict=True))

    def rows(self, indices: Sequence[int]) -> list[str]:
        """Where users find the rows of these sequences: source and place, for messages. Read from the file each time.

        If the file does not know it, as those of older versions, its own rows are named.
        """
        if "rows" not in pq.read_schema(self._path).names:
            return [f"{FILE}, row {index}" for index in indices]
        column = pq.read_table(self._path, columns=["rows"]).column("rows")
        return [name for index in indices for name in column[int(index)].as_py()]


def write_dataset(
    folder: Path,
    ids: Sequence[list[int]],
    labels: Sequence[list[int]],
    segments: Sequence[list[int]],
    rows: Sequence[list[str]] | None = None,
    good: Sequence[bool] | None = None,
    name: str = FILE,
) -> None:
    """Write the file `name` into `folder`. Each argument has one list per sequence, and no list is empty.

    `rows`: for each segment where users find its row, if that is known. `good`: the label of each sequence, for kto.
    """
    kind = pa.list_(pa.int32())
    columns = {
        "input_ids": pa.array(ids, kind),
        "labels": pa.array(labels, kind),
        "segments": pa.array(segments, kind),
    }
    if rows is not None:
        columns["rows"] = pa.array(rows, pa.list_(pa.string()))
    if good is not None:
        columns["good"] = pa.array(good, pa.bool_())
    pq.write_table(pa.table(columns), folder / name, compression="zstd")


def write_turn_ends(folder: Path, tokens: Sequence[int]) -> None:
    """Write the tokens that end answers, the most frequent first. Generation will stop at them too."""
    (folder / TURN_ENDS).write_text(json.dumps(list(tokens)))


def read_turn_ends(folder: Path) -> list[int]:
    """Read what `write_turn_ends` wrote; an empty list for a folder from an older version, without the file."""
    path = folder / TURN_ENDS
    return [int(token) for token in json.loads(path.read_text())] if path.exists() else []


def _flat(table: pa.Table, column: str) -> tuple[Tokens, npt.NDArray[np.int64]]:
    lists = table.column(column).chunk(0)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return lists.values.to_numpy(), offsets
