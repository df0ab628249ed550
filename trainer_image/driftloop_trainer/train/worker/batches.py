"""Microbatches as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional

from driftloop_trainer.dataset import IGNORED, Dataset, Tokens


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
    position_ids: torch.Tensor | None = None  # with packing: from 0 again in each document; and with `context`
    documents: Documents | None = None  # with packing, or with `context`
    reference: torch.Tensor | None = None  # for a method that compares with the first weights: a value per sequence
    good: torch.Tensor | None = None  # for kto: the label of each sequence
    others: "Batch | None" = None  # for kto: the same prompts with the answers of other rows
    context: dist.ProcessGroup | None = None  # the workers that have the other tokens of these rows, if any

    def to(self, device: torch.device) -> "Batch":
        """A copy on `device`."""
        ids, targets, kept = (_copied(tensor, device) for tensor in (self.ids, self.targets, self.kept))
        positions = None if self.position_ids is None else _copied(self.position_ids, device)
        documents = None if self.documents is None else self.documents.to(device)
        reference, good = (
            None if tensor is None else _copied(tensor, device) for tensor in (self.reference, self.good)
        )
        others = None if self.others is None else self.others.to(device)
        return Batch(ids, targets, kept, positions, documents, reference, good, others, self.context)

    def filled(self, rows: int, tokens: int) -> "Batch":
        """A copy of this shape on the CPU; the additional rows and tokens are padding without a target."""
        more, later = rows - self.ids.shape[0], tokens - self.ids.shape[1]
        ids = functional.pad(self.ids, (0, later, 0, more))
        targets = functional.pad(self.targets, (0, 0, 0, more), value=IGNORED)
        if self.position_ids is None:
            return replace(self, ids=ids, targets=targets)
        positions = torch.arange(tokens).repeat(rows, 1)
        positions[: self.ids.shape[0], : self.ids.shape[1]] = self.position_ids
        positions[:, self.ids.shape[1] :] -= self.ids.shape[1]
        starts = [*(positions.flatten() == 0).nonzero().flatten().tolist(), positions.numel()]
        documents = Documents.of([end - start for start, end in pairwise(starts)])
        return replace(self, ids=ids, targets=targets, position_ids=positions, documents=documents)

    def without_targets(self) -> "Batch":
        """The same rows, of which no token counts."""
        return replace(self, targets=torch.full_like(self.targets, IGNORED))


def alike(batches: Sequence[Batch]) -> list[Batch]:
    """The microbatches padded to one shape: the stages of a pipeline exchange tensors of one shape in a step."""
    rows, tokens = (max(batch.ids.shape[side] for batch in batches) for side in (0, 1))
    return [batch.filled(rows, tokens) for batch in batches]


def collate(dataset: Dataset, indices: Sequence[int], pad_id: int) -> Batch:
    """These sequences as a batch, see `padded`. With packing each of their rows begins at position 0."""
    batch = padded([(dataset.ids(index), dataset.labels(index)) for index in indices], pad_id)
    if not dataset.packed:
        return batch
    lengths = _document_lengths(dataset, indices, batch.ids.shape[1])
    positions = torch.cat([torch.arange(length) for length in lengths]).view_as(batch.ids)
    return replace(batch, position_ids=positions, documents=Documents.of(lengths))


def padded(rows: Sequence[tuple[Tokens, Tokens]], pad_id: int) -> Batch:
    """Pad rows, each its token ids and labels, on the right to the longest. Without rows: one padding token, no target.

    No attention mask is needed: causal attention ignores tokens to the right, and padding has no target. Columns in
    which no row has a target are not in `kept`, so that the head, the most expensive layer, skips them.
    """
    width = max((len(tokens) for tokens, _ in rows), default=1)
    ids = torch.full((max(1, len(rows)), width), pad_id, dtype=torch.int64)
    targets = torch.full_like(ids, IGNORED)
    for row, (tokens, labels) in enumerate(rows):
        ids[row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
        targets[row, : len(tokens) - 1] = torch.from_numpy(labels[1:].astype(np.int64))
    kept = (targets != IGNORED).any(0).nonzero().flatten()
    if not len(kept):
        kept = torch.zeros(1, dtype=torch.int64)  # with an empty head output a rank would have no backward pass
    return Batch(ids, targets[:, kept], kept)


def _document_lengths(dataset: Dataset, indices: Sequence[int], width: int) -> list[int]:
    """Tokens of each document of a batch that is padded to `width`."""
    lengths = ([*dataset.segments(index).tolist(), width - int(dataset.lengths[index])] for index in indices)
    return [length for length in chain.from_iterable(lengths) if length] or [width]


def _copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on `device`. From pinned memory, a GPU copies while the CPU goes on."""
    source = tensor.pin_memory() if device.type == "cuda" else tensor
    return source.to(device, non_blocking=True)
