from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.train.worker.batches import alike, collate
from driftloop_trainer.train.worker.loss import loss_sum

ROWS = [[5, 6, 7, 8], [9, 10, 11], [12, 13]]
LABELS = [[IGNORED, IGNORED, 7, 8], [IGNORED, 10, 11], [IGNORED, 13]]


def dataset(folder: Path, packed: bool) -> Dataset:
    if packed:
        write_dataset(folder, [list(chain(*ROWS))], [list(chain(*LABELS))], [[len(row) for row in ROWS]])
    else:
        write_dataset(folder, ROWS, LABELS, [[len(row)] for row in ROWS])
    return Dataset(folder / FILE)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    model: Any = LlamaForCausalLM(config)
    return model.to(torch.float64)


def test_targets_are_the_next_tokens_and_columns_without_any_are_left_out(tmp_path: Path) -> None:
    batch = collate(dataset(tmp_path, False), [0, 1], pad_id=0)
    assert batch.ids.tolist() == [[5, 6, 7, 8], [9, 10, 11, 0]]
    assert batch.kept.tolist() == [0, 1, 2]
    assert batch.targets.tolist() == [[IGNORED, 7, 8], [10, 11, IGNORED]]
    assert collate(dataset(tmp_path, False), [0], pad_id=0).kept.tolist() == [1, 2]


def test_a_batch_without_rows_counts_nothing(tmp_path: Path, model: Any) -> None:
    loss = loss_sum(model, collate(dataset(tmp_path, False), [], pad_id=0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_packed_and_padded_rows_have_the_loss_of_rows_alone(tmp_path: Path, model: Any) -> None:
    """Leaking between packed rows is silent: only the loss tells."""
    (tmp_path / "p").mkdir()
    single, packed = dataset(tmp_path, False), dataset(tmp_path / "p", True)
    with torch.no_grad():
        alone = sum(loss_sum(model, collate(single, [row], 0)).item() for row in range(3))
        assert loss_sum(model, collate(single, [0, 1, 2], 0)).item() == pytest.approx(alone, abs=1e-6)
        assert loss_sum(model, collate(packed, [0], 0)).item() == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_micro_batches_of_one_shape_have_the_losses_that_they_had(tmp_path: Path, model: Any, packed: bool) -> None:
    data = dataset(tmp_path, packed)
    batches = [collate(data, indices, 0) for indices in (range(len(data)), [len(data) - 1], [])]
    padded = alike(batches)
    assert {batch.ids.shape for batch in padded} == {batches[0].ids.shape}
    larger = batches[0].filled(5, 12)
    assert larger.ids.shape == (5, 12)
    with torch.no_grad():
        for before, after in zip([*batches, batches[0]], [*padded, larger], strict=True):
            assert loss_sum(model, after).item() == pytest.approx(loss_sum(model, before).item(), abs=1e-6)


def test_padding_to_a_shape_adds_documents_of_padding(tmp_path: Path) -> None:
    batch = collate(dataset(tmp_path, True), [0], 0).filled(2, 12)
    assert batch.documents is not None
    assert batch.documents.lengths == (4, 3, 2, 3, 9, 3)
    assert batch.position_ids is not None
    starts = (batch.position_ids.flatten() == 0).nonzero().flatten().tolist()
    assert batch.documents.starts.tolist() == [*starts, 24]


def test_a_dataset_counts_its_tokens(tmp_path: Path) -> None:
    data = dataset(tmp_path, False)
    assert data.lengths.tolist() == [4, 3, 2]
    assert data.trained.tolist() == [2, 2, 1]
    assert not data.packed


def test_a_packed_batch_knows_its_documents_and_its_padding_is_one(tmp_path: Path) -> None:
    write_dataset(tmp_path, [[5, 6, 7, 8, 9], [1, 2]], [[5, 6, 7, 8, 9], [1, 2]], [[3, 2], [2]])
    packed = Dataset(tmp_path / FILE)
    batch = collate(packed, [0, 1], pad_id=0)
    assert batch.documents is not None
    assert batch.documents.lengths == (3, 2, 2, 3)
    assert batch.documents.starts.tolist() == [0, 3, 5, 7, 10]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    empty = collate(packed, [], pad_id=0).documents
    assert empty is not None
    assert empty.lengths == (1,)
    assert collate(dataset(tmp_path, False), [0], pad_id=0).documents is None
