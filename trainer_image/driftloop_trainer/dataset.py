"""The tokenised rows: one Parquet file that prepare writes and training reads, and the tokens that end an answer."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

FILE = "train.parquet"
TURN_ENDS = "turn_ends.json"
IGNORED = -100  # a label that does not count in the loss: the number torch and transformers use
Tokens = npt.NDArray[np.int32]


class Dataset:
    """Sequences of tokens with their labels; with packing a sequence holds several rows.

    `lengths`, `trained`: tokens, and tokens that count in the loss, of each sequence; int64, shape (sequences,).
    """

    def __init__(self, path: Path) -> None:
        table = pq.read_table(path).combine_chunks()
        self._ids, offsets = _flat(table, "input_ids")
        self._labels, _ = _flat(table, "labels")
        self._segments, self._segment_offsets = _flat(table, "segments")
        self._offsets = offsets
        self.lengths = np.diff(offsets)
        self.trained = np.add.reduceat(self._labels != IGNORED, offsets[:-1], dtype=np.int64)
        self.packed = len(self._segments) > len(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def ids(self, index: int) -> Tokens:
        """Token ids of a sequence."""
        return self._ids[self._offsets[index] : self._offsets[index + 1]]

    def labels(self, index: int) -> Tokens:
        """Labels, as long as `ids`: the token itself, or IGNORED."""
        return self._labels[self._offsets[index] : self._offsets[index + 1]]

    def segments(self, index: int) -> Tokens:
        """Lengths of the rows in a sequence."""
        return self._segments[self._segment_offsets[index] : self._segment_offsets[index + 1]]


def write_dataset(
    folder: Path, ids: Sequence[list[int]], labels: Sequence[list[int]], segments: Sequence[list[int]]
) -> None:
    """Write FILE into `folder`; each argument has one list a sequence, none of them empty."""
    kind = pa.list_(pa.int32())
    table = pa.table(
        {
            "input_ids": pa.array(ids, kind),
            "labels": pa.array(labels, kind),
            "segments": pa.array(segments, kind),
        }
    )
    pq.write_table(table, folder / FILE, compression="zstd")


def write_turn_ends(folder: Path, tokens: Sequence[int]) -> None:
    """Keep the tokens that end the answers in the rows, which end generation too, the most frequent first."""
    (folder / TURN_ENDS).write_text(json.dumps(list(tokens)))


def read_turn_ends(folder: Path) -> list[int]:
    """What `write_turn_ends` wrote; nothing in a folder that was prepared before there was such a file."""
    path = folder / TURN_ENDS
    return [int(token) for token in json.loads(path.read_text())] if path.exists() else []


def _flat(table: pa.Table, column: str) -> tuple[Tokens, npt.NDArray[np.int64]]:
    lists = table.column(column).chunk(0)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return lists.values.to_numpy(), offsets
