from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from driftloop_trainer.dataset import FILE, Dataset, write_dataset
from driftloop_trainer.train.worker.batches import Batch, collate
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.step import NonFinite, train_step
from unit.trainer.sharded_run import tiny_model


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    write_dataset(tmp_path, [[5, 6, 7, 8]], [[-100, 6, 7, 8]], [[4]])
    return collate(Dataset(tmp_path / FILE), [0], pad_id=0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training_before_any_weight_changes(batch: Batch, broken: float) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = broken
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with pytest.raises(NonFinite, match="loss nan") as raised:
        train_step(model, optimizer, Mesh.of("cpu"), [batch], 3, max_grad_norm=1.0)
    assert raised.value.micro_batches == (0,)
    unchanged = zip(before, model.parameters(), strict=True)
    assert all(torch.equal(old.nan_to_num(), new.nan_to_num()) for old, new in unchanged)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_steps_lower_the_loss(batch: Batch) -> None:
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = [train_step(model, optimizer, Mesh.of("cpu"), [batch], 3, max_grad_norm=1.0)[0] for _ in range(10)]
    assert losses[-1] < losses[0] / 2
