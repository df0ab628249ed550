"""Microbatches as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from driftloop_trainer.dataset import IGNORED, Dataset


@dataclass(frozen=True, slots=True)
class Batch:
    """A microbatch: `ids` (rows, tokens); `targets` (rows, kept), the next token or IGNORED at the columns `kept`."""

    ids: torch.Tensor
    targets: torch.Tensor
    kept: torch.Tensor
    position_ids: torch.Tensor | None  # with packing: from 0 again in each row of a sequence

    def to(self, device: torch.device) -> "Batch":
        """A copy on `device`."""
        positions = None if self.position_ids is None else self.position_ids.to(device, non_blocking=True)
        ids, targets, kept = (t.to(device, non_blocking=True) for t in (self.ids, self.targets, self.kept))
        return Batch(ids, targets, kept, positions)


def collate(dataset: Dataset, indices: Sequence[int], pad_id: int) -> Batch:
    """Pad these sequences on the right to the longest one. Without sequences: one padding token without a target.

    No attention mask is needed: causal attention ignores tokens to the right, and padding has no target. Columns in
    which no row has a target are not in `kept`, so that the head, the most expensive layer, skips them.
    """
    width = max((int(dataset.lengths[index]) for index in indices), default=1)
    rows = max(1, len(indices))
    ids = torch.full((rows, width), pad_id, dtype=torch.int64)
    targets = torch.full((rows, width), IGNORED, dtype=torch.int64)
    positions = torch.zeros((rows, width), dtype=torch.int64) if dataset.packed else None
    for row, index in enumerate(indices):
        length = int(dataset.lengths[index])
        ids[row, :length] = torch.from_numpy(dataset.ids(index).astype(np.int64))
        targets[row, : length - 1] = torch.from_numpy(dataset.labels(index)[1:].astype(np.int64))
        if positions is not None:
            lengths = [*dataset.segments(index).tolist(), width - length]
            positions[row] = torch.cat([torch.arange(n) for n in lengths])
    kept = (targets != IGNORED).any(0).nonzero().flatten()
    if not len(kept):
        kept = torch.zeros(1, dtype=torch.int64)  # with an empty head output a rank would have no backward pass
    return Batch(ids, targets[:, kept], kept, positions)
