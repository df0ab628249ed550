"""The parts of a batch are the batch. That attention over them is exact is tested by test_exactness.py."""

from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.train.worker.batches import Batch, collate
from driftloop_trainer.train.worker.context import part

ROWS = [[5, 6, 7, 8, 9], [10, 11, 12]]
LABELS = [[IGNORED, IGNORED, 7, 8, 9], [IGNORED, 11, 12]]


def collated(folder: Path, *, packed: bool = False) -> Batch:
    if packed:
        write_dataset(folder, [list(chain(*ROWS))], [list(chain(*LABELS))], [[len(row) for row in ROWS]])
    else:
        write_dataset(folder, ROWS, LABELS, [[len(row)] for row in ROWS])
    data = Dataset(folder / FILE)
    return collate(data, range(len(data)), pad_id=0)


def parts(batch: Batch, size: int) -> list[Batch]:
    return [part(batch, dist.ProcessGroup(rank, size)) for rank in range(size)]


def targets(batch: Batch, first: int = 0) -> dict[tuple[int, int], int]:
    """The targets that count, by row and column; the batch begins at column `first`."""
    columns = (batch.kept + first).tolist()
    every = {
        (row, column): target
        for row, found in enumerate(batch.targets.tolist())
        for column, target in zip(columns, found, strict=True)
    }
    return {place: target for place, target in every.items() if target != IGNORED}


def positions(batch: Batch) -> list[list[int]]:
    assert batch.position_ids is not None
    found: list[list[int]] = batch.position_ids.tolist()
    return found


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_token_and_target_is_in_one_part_also_beside_its_border(tmp_path: Path, packed: bool, size: int) -> None:
    batch = collated(tmp_path, packed=packed)
    found = parts(batch, size)
    width = found[0].ids.shape[1]
    ids = torch.cat([each.ids for each in found], 1)
    assert ids[:, : batch.ids.shape[1]].equal(batch.ids)
    assert not ids[:, batch.ids.shape[1] :].any()  # padding
    counted = [targets(each, rank * width) for rank, each in enumerate(found)]
    assert sum(map(len, counted)) == len(targets(batch))
    assert {place: target for each in counted for place, target in each.items()} == targets(batch)


def test_positions_go_on_from_part_to_part_and_start_again_in_each_packed_row(tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    alone, packed = parts(collated(tmp_path), 2), parts(collated(tmp_path / "packed", packed=True), 2)
    assert [positions(each) for each in alone] == [[[0, 1, 2], [0, 1, 2]], [[3, 4, 5], [3, 4, 5]]]
    assert [positions(each) for each in packed] == [[[0, 1, 2, 3]], [[4, 0, 1, 2]]]


def test_documents_are_whole_rows_as_attention_sees_all_of_their_tokens(tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    for batch, lengths in ((collated(tmp_path), (6, 6)), (collated(tmp_path / "packed", packed=True), (5, 3))):
        for each in parts(batch, 2):
            assert each.documents is not None
            assert each.documents.lengths == lengths


def test_a_part_without_a_target_has_a_backward_pass_all_the_same(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[5, 6, 7, 8]], [[IGNORED, IGNORED, IGNORED, 8]], [[4]])
    first, second = parts(collate(Dataset(tmp_path / FILE), [0], pad_id=0), 2)
    assert (first.kept.tolist(), first.targets.tolist()) == ([0], [[IGNORED]])
    assert (second.kept.tolist(), second.targets.tolist()) == ([0], [[8]])
