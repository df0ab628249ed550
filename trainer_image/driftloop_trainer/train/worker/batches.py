"""Microbatches as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from driftloop_trainer.dataset import IGNORED, Dataset


@dataclass(frozen=True, slots=True)
class Documents:
    """The rows that lie one after another in packed sequences. The padding of a sequence is a document of its own.

    `lengths`: tokens of each, through all sequences of the batch. `starts`: its first token in the flat batch, and the
    number of all tokens at the end: int32, (documents + 1,).
    """

    lengths: tuple[int, ...]
    starts: torch.Tensor

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Documents":
        """Documents of these lengths, on the CPU."""
        counted = torch.tensor([0, *lengths])
        return cls(tuple(lengths), counted.cumsum(0, dtype=torch.int32))

    def to(self, device: torch.device) -> "Documents":
        """A copy on `device`."""
        return Documents(self.lengths, _copied(self.starts, device))


@dataclass(frozen=True, slots=True)
class Batch:
    """A microbatch: `ids` (rows, tokens); `targets` (rows, kept), the next token or IGNORED at the columns `kept`."""

    ids: torch.Tensor
    targets: torch.Tensor
    kept: torch.Tensor
    position_ids: torch.Tensor | None = None  # with packing: from 0 again in each document
    documents: Documents | None = None  # with packing

    def to(self, device: torch.device) -> "Batch":
        """A copy on `device`."""
        ids, targets, kept = (_copied(tensor, device) for tensor in (self.ids, self.targets, self.kept))
        positions = None if self.position_ids is None else _copied(self.position_ids, device)
        documents = None if self.documents is None else self.documents.to(device)
        return Batch(ids, targets, kept, positions, documents)


def collate(dataset: Dataset, indices: Sequence[int], pad_id: int) -> Batch:
    """Pad these sequences on the right to the longest one. Without sequences: one padding token without a target.

    No attention mask is needed: causal attention ignores tokens to the right, and padding has no target. Columns in
    which no row has a target are not in `kept`, so that the head, the most expensive layer, skips them.
    """
    width = max((int(dataset.lengths[index]) for index in indices), default=1)
    rows = max(1, len(indices))
    ids = torch.full((rows, width), pad_id, dtype=torch.int64)
    targets = torch.full((rows, width), IGNORED, dtype=torch.int64)
    for row, index in enumerate(indices):
        length = int(dataset.lengths[index])
        ids[row, :length] = torch.from_numpy(dataset.ids(index).astype(np.int64))
        targets[row, : length - 1] = torch.from_numpy(dataset.labels(index)[1:].astype(np.int64))
    kept = (targets != IGNORED).any(0).nonzero().flatten()
    if not len(kept):
        kept = torch.zeros(1, dtype=torch.int64)  # with an empty head output a rank would have no backward pass
    if not dataset.packed:
        return Batch(ids, targets[:, kept], kept)
    lengths = _document_lengths(dataset, indices, width)
    positions = torch.cat([torch.arange(length) for length in lengths]).view(rows, width)
    return Batch(ids, targets[:, kept], kept, positions, Documents.of(lengths))


def _document_lengths(dataset: Dataset, indices: Sequence[int], width: int) -> list[int]:
    """Tokens of each document of a batch that is padded to `width`."""
    padded = ([*dataset.segments(index).tolist(), width - int(dataset.lengths[index])] for index in indices)
    return [length for length in chain.from_iterable(padded) if length] or [width]


def _copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on `device`. From pinned memory, a GPU copies while the CPU goes on."""
    source = tensor.pin_memory() if device.type == "cuda" else tensor
    return source.to(device, non_blocking=True)
