import errno
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.fsspec_filesystem import FsspecReader

from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.run import Checkpoint, Position, Run, Superseded
from driftloop_trainer.train.validation import Validated
from driftloop_trainer.train.worker.checkpoint import load, resume
from driftloop_trainer.train.worker.saver import Saver
from unit.trainer.conftest import model_and_optimizer, taken_over


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def save(run: Run, position: Position, model: nn.Module, optimizer: torch.optim.AdamW, keep: int) -> Checkpoint:
    """Write a checkpoint, and wait until it is complete."""
    saver = Saver(run, model, optimizer, keep)
    saved = saver.save(position)
    saver.close()
    return saved


@pytest.mark.usefixtures("alone")
def test_weights_and_moments_come_back(volume: Path) -> None:
    model, optimizer = model_and_optimizer()
    saved = save(taken_over("0000-a"), Position(3), model, optimizer, keep=2)
    other, other_optimizer = model_and_optimizer()
    assert taken_over("0001-b").complete_checkpoints() == [saved]
    load(saved, other, other_optimizer)
    assert torch.equal(other.weight, model.weight)  # type: ignore[arg-type]
    moments = [o.state[next(iter(o.state))]["exp_avg"] for o in (optimizer, other_optimizer)]
    assert torch.equal(*moments)


@pytest.mark.usefixtures("alone")
def test_only_the_furthest_are_kept_and_half_a_checkpoint_does_not_count(volume: Path) -> None:
    mine = taken_over("0000-a")
    model, optimizer = model_and_optimizer()
    for step in (1, 2, 3):
        save(mine, Position(step), model, optimizer, keep=2)
    cut_off = volume / "runs" / "uid" / "step-00000009-0000-a"
    cut_off.mkdir()
    (cut_off / "__0_0.distcp").write_bytes(b"half")
    assert mine.complete_checkpoints()[0].step == 3
    assert sorted(p.name for p in (volume / "runs" / "uid").glob("step-*")) == [
        "step-00000002-0000-a",
        "step-00000003-0000-a",
        cut_off.name,
    ]


@pytest.mark.usefixtures("alone")
def test_a_run_that_was_taken_over_writes_nothing_more(volume: Path) -> None:
    old, (model, optimizer) = taken_over("0000-a"), model_and_optimizer()
    save(old, Position(1), model, optimizer, keep=2)
    taken_over("0000-b")
    with pytest.raises(Superseded):
        save(old, Position(2), model, optimizer, keep=2)
    assert [p.name for p in (volume / "runs" / "uid").glob("step-*")] == ["step-00000001-0000-a"]


@pytest.mark.usefixtures("alone")
def test_a_run_without_a_checkpoint_resumes_from_that_of_another_run_and_leaves_it_alone(volume: Path) -> None:
    model, optimizer = model_and_optimizer()
    failed = Run("pvc://claim/runs/failed", "0000-a")
    failed.take_over()
    for step in (3, 4):
        save(failed, Position(step, skipped=2), model, optimizer, keep=2)
    expected = model.weight.clone()  # type: ignore[operator]
    run, (other, other_optimizer) = taken_over("0000-b"), model_and_optimizer()
    cut_short(volume / "runs" / "failed" / "step-00000004-0000-a" / "__0_0.distcp")
    assert resume(run, other, other_optimizer, failed) == Position(3, skipped=0, validated=Validated(3))
    assert torch.equal(other.weight, expected)  # type: ignore[arg-type]
    assert len(failed.complete_checkpoints()) == 2
    save(run, Position(5), other, other_optimizer, keep=2)
    assert resume(run, other, other_optimizer, failed) == Position(5)


def delete(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


DAMAGE = [(delete, "__0_0.distcp"), (cut_short, "__0_0.distcp"), (delete, ".metadata"), (cut_short, ".metadata")]


@pytest.mark.parametrize(("damage", "name"), DAMAGE)
@pytest.mark.usefixtures("alone")
def test_training_resumes_from_the_checkpoint_before_one_that_cannot_be_loaded(
    volume: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], name: str
) -> None:
    run, (model, optimizer) = taken_over("0000-a"), model_and_optimizer()
    assert resume(run, model, optimizer) == Position()
    earlier = save(run, Position(1), model, optimizer, keep=2)
    expected = model.weight.clone()  # type: ignore[operator]
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    later = save(run, Position(2), model, optimizer, keep=2)
    damage(volume / "runs" / "uid" / later.uri.rpartition("/")[2] / name)
    other, other_optimizer = model_and_optimizer()
    assert resume(run, other, other_optimizer) == Position(1)
    assert torch.equal(other.weight, expected)  # type: ignore[arg-type]
    assert f"{later.uri} can't be loaded: rank 0: " in caplog.text
    assert run.complete_checkpoints() == [earlier]


@pytest.mark.usefixtures("alone")
def test_if_no_checkpoint_can_be_loaded_training_does_not_start_anew(volume: Path) -> None:
    run, (model, optimizer) = taken_over("0000-a"), model_and_optimizer()
    for step in (1, 2):
        save(run, Position(step), model, optimizer, keep=2)
    for path in (volume / "runs" / "uid").glob("step-*/*.distcp"):
        path.unlink()
    with pytest.raises(StageFailure, match=r"CheckpointUnreadable: .*step-00000002-0000-a, .*step-00000001-") as ended:
        resume(run, model, optimizer)
    assert ended.value.exit_code == 75
    assert len(run.complete_checkpoints()) == 2


@pytest.mark.parametrize(
    "error", [TimeoutError("slow down"), OSError(errno.EIO, "I/O error"), ConnectionError("reset")]
)
@pytest.mark.usefixtures("alone")
def test_a_failure_of_the_storage_costs_no_checkpoint(
    volume: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run, (model, optimizer) = taken_over("0000-a"), model_and_optimizer()
    saved = [save(run, Position(step), model, optimizer, keep=2) for step in (1, 2)]

    def fail(*_: object) -> None:
        raise error

    for part in ("read_data", "read_metadata"):
        with monkeypatch.context() as broken:
            broken.setattr(FsspecReader, part, fail)
            with pytest.raises(StageFailure, match=f"StorageUnreadable: .*{re.escape(str(error))}") as ended:
                resume(run, model, optimizer)
            assert ended.value.exit_code == 75
    assert run.complete_checkpoints() == saved[::-1]
