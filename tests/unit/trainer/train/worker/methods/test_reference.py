from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.run import Run
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.reference import kept_or, over_all
from driftloop_trainer.train.worker.sharding import shard
from unit.trainer.conftest import RUN
from unit.trainer.sharded_run import tiny_model


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("volume")
def test_values_are_computed_once_per_run() -> None:
    def again() -> torch.Tensor:
        raise AssertionError("the weights may have changed since")

    first = kept_or(Run(RUN, "0000-a"), lambda: torch.tensor([0.1, -3.0], dtype=torch.float64))
    second = kept_or(Run(RUN, "0001-b"), again)
    assert first.tolist() == second.tolist() == [0.1, -3.0]


def test_a_storage_that_fails_ends_the_stage_with_its_reason(volume: Path) -> None:
    (volume / "runs").write_text("not a folder")
    with pytest.raises(StageFailure, match="StorageUnreadable: the values of the first weights"):
        kept_or(Run(RUN, "0000-a"), lambda: torch.zeros(1))


def test_every_sequence_has_its_value_and_dropout_is_off() -> None:
    model = shard(tiny_model(), Mesh.of("cpu"), bf16=False, gradient_checkpointing=False)
    model.train()

    def values(indices: Sequence[int]) -> torch.Tensor:
        assert not model.training
        assert not torch.is_grad_enabled()
        return torch.tensor(indices, dtype=torch.float64) ** 2

    found = over_all(model, np.array([5, 1, 3, 9, 2]), values, Mesh.of("cpu"), 2)
    assert found.tolist() == [0, 1, 4, 9, 16]
