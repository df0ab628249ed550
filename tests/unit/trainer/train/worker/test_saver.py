import re
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from driftloop_trainer.train.run import Position, Run, Superseded
from driftloop_trainer.train.worker import saver as module
from driftloop_trainer.train.worker.checkpoint import resume
from driftloop_trainer.train.worker.saver import Saver
from unit.trainer.conftest import taken_over


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Training:
    """A model that changes with each step."""

    def __init__(self, width: int = 2) -> None:
        self.model = nn.Linear(width, width)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.step()

    def step(self) -> None:
        self.model(torch.ones(self.model.in_features)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def saver(self, run: Run, **options: Any) -> Saver:
        return Saver(run, self.model, self.optimizer, keep=2, **options)

    def weight(self) -> torch.Tensor:
        return self.model.weight.detach().clone()


class Storage:
    """Storage that keeps writers waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.free = threading.Event(), threading.Event()
        write = module._Writer.write_data

        def held(*arguments: Any) -> Any:
            self.begun.set()
            assert self.free.wait(60)
            return write(*arguments)

        monkeypatch.setattr(module._Writer, "write_data", held)


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    storage = Storage(monkeypatch)
    yield storage
    storage.free.set()


def loaded(run: Run) -> tuple[int, torch.Tensor]:
    """The step and the weights with which another process goes on."""
    other = Training()
    return resume(run, other.model, other.optimizer).step, other.weight()


def test_training_goes_on_meanwhile_and_the_checkpoint_has_what_was_there_when_it_began(
    volume: Path, storage: Storage
) -> None:
    run, training = taken_over("0000-a"), Training()
    saver = training.saver(run)
    expected = training.weight()
    saver.save(Position(1))
    assert storage.begun.wait(60)
    training.step()
    assert run.complete_checkpoints() == []  # it does not count before it is complete
    storage.free.set()
    saver.close()
    step, weight = loaded(run)
    assert step == 1
    assert torch.equal(weight, expected)
    assert not torch.equal(weight, training.weight())


def test_the_next_checkpoint_waits_for_the_previous_one(volume: Path, storage: Storage) -> None:
    run, training = taken_over("0000-a"), Training()
    saver = training.saver(run)
    saver.save(Position(1))
    assert storage.begun.wait(60)
    training.step()
    second = threading.Thread(target=saver.save, args=[Position(2)])
    second.start()
    second.join(0.5)
    assert second.is_alive()
    storage.free.set()
    second.join(60)
    saver.close()
    assert [checkpoint.step for checkpoint in run.complete_checkpoints()] == [2, 1]
    assert torch.equal(loaded(run)[1], training.weight())


def test_in_the_foreground_a_checkpoint_is_complete_at_once(volume: Path) -> None:
    run, training = taken_over("0000-a"), Training()
    saved = training.saver(run, background=False).save(Position(1, 1))
    assert run.complete_checkpoints() == [saved]


@pytest.mark.parametrize("background", [True, False])
def test_a_failure_of_the_storage_is_reported_and_costs_no_training(
    volume: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, background: bool
) -> None:
    run, training = taken_over("0000-a"), Training()
    saver = training.saver(run, background=background)
    first = saver.save(Position(1))
    saver.wait()

    def fail(*_: object) -> None:
        raise OSError("disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(module._Writer, "write_data", fail)
        failed = saver.save(Position(2))
        saver.wait()
    assert f"{failed.uri} could not be written, training goes on: rank 0: disk is full" in caplog.text
    assert run.complete_checkpoints() == [first]
    third = saver.save(Position(3))
    saver.close()
    assert run.complete_checkpoints() == [third, first]


@contextmanager
def little_room(size: int) -> Iterator[None]:
    """No file of this process may have more bytes: the kernel refuses to write, as on a full disk."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_costs_that_checkpoint_alone_and_nothing_of_it_stays_there(
    volume: Path, caplog: pytest.LogCaptureFixture, background: bool
) -> None:
    run, training = taken_over("0000-a"), Training(width=512)
    saver = training.saver(run, background=background)
    first = saver.save(Position(1))
    saver.wait()
    expected = training.weight()
    training.step()
    with little_room(1 << 18):
        failed = saver.save(Position(2))
        saver.wait()
    assert re.search(f"{failed.uri} could not be written, training goes on: rank 0: .*File too large", caplog.text)
    assert [path.name for path in (volume / "runs" / "uid").glob("step-*")] == [first.uri.rpartition("/")[2]]
    other = Training(width=512)
    assert resume(run, other.model, other.optimizer).step == 1
    assert torch.equal(other.weight(), expected)
    third = saver.save(Position(3))
    saver.close()
    assert run.complete_checkpoints() == [third, first]


def test_a_driver_that_was_replaced_meanwhile_completes_nothing_and_ends_at_its_next_checkpoint(
    volume: Path, storage: Storage
) -> None:
    old, training = taken_over("0000-a"), Training()
    saver = training.saver(old)
    saver.save(Position(1))
    assert storage.begun.wait(60)
    new = taken_over("0001-b")
    storage.free.set()
    with pytest.raises(Superseded):
        saver.save(Position(2))
    assert new.complete_checkpoints() == []
    saver.close()


def test_when_training_ends_in_a_failure_the_last_checkpoint_is_complete(volume: Path, storage: Storage) -> None:
    run, training = taken_over("0000-a"), Training()
    saver = training.saver(run)
    saved = saver.save(Position(1))
    closing = threading.Thread(target=saver.close)
    closing.start()
    storage.free.set()
    closing.join(60)
    assert run.complete_checkpoints() == [saved]
