from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from driftloop_trainer.train.run import Superseded
from driftloop_trainer.train.worker.checkpoint import load, save
from unit.trainer.conftest import taken_over


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def model_and_optimizer() -> tuple[nn.Module, torch.optim.AdamW]:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.usefixtures("alone")
def test_weights_and_moments_come_back(volume: Path) -> None:
    model, optimizer = model_and_optimizer()
    saved = save(taken_over("0000-a"), 3, model, optimizer, keep=2)
    other, other_optimizer = model_and_optimizer()
    last = taken_over("0001-b").last()
    assert last == saved
    load(saved, other, other_optimizer)
    assert torch.equal(other.weight, model.weight)  # type: ignore[arg-type]
    moments = [o.state[next(iter(o.state))]["exp_avg"] for o in (optimizer, other_optimizer)]
    assert torch.equal(*moments)


@pytest.mark.usefixtures("alone")
def test_only_the_furthest_are_kept_and_half_a_checkpoint_does_not_count(volume: Path) -> None:
    mine = taken_over("0000-a")
    model, optimizer = model_and_optimizer()
    for step in (1, 2, 3):
        save(mine, step, model, optimizer, keep=2)
    cut_off = volume / "runs" / "uid" / "step-00000009-0000-a"
    cut_off.mkdir()
    (cut_off / "__0_0.distcp").write_bytes(b"half")
    last = mine.last()
    assert last is not None
    assert last.step == 3
    assert sorted(p.name for p in (volume / "runs" / "uid").glob("step-*")) == [
        "step-00000002-0000-a",
        "step-00000003-0000-a",
        cut_off.name,
    ]


@pytest.mark.usefixtures("alone")
def test_a_run_that_was_taken_over_writes_nothing_more(volume: Path) -> None:
    old, (model, optimizer) = taken_over("0000-a"), model_and_optimizer()
    save(old, 1, model, optimizer, keep=2)
    taken_over("0000-b")
    with pytest.raises(Superseded):
        save(old, 2, model, optimizer, keep=2)
    assert [p.name for p in (volume / "runs" / "uid").glob("step-*")] == ["step-00000001-0000-a"]
