"""Validation on several ranks: its loss is that of one plain process, and what depends on it survives a restart."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from driftloop.podlib.ending import StageFailure
from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.train.run import Position
from driftloop_trainer.train.validation import Validated
from driftloop_trainer.train.worker.saver import Saver
from driftloop_trainer.train.worker.validate import use_best
from parts import runs, sweep
from unit.trainer.conftest import taken_over
from unit.trainer.ranks import run_script
from unit.trainer.sharded_run import STEPS, Tensors, adapter_of
from unit.trainer.test_exactness import dataset, error, packed_dataset, plain_loss, plain_training

pytestmark = pytest.mark.timeout(900)

EACH = {"validation": {"everySteps": 1}, "save_steps": 100}
MESHES: dict[str, dict[str, Any]] = {
    "two ranks, in chunks": {"world_size": 2, "micro_size": 2, "chunk": 8},
    "staged": {"world_size": 2, "pipeline": 2, "micro_size": 2},
    "staged, packed": {
        "world_size": 2,
        "pipeline": 2,
        "micro_size": 2,
        "data": "packed",
        "model": {"tie_word_embeddings": False},
    },
    "several stages": {"world_size": 2, "pipeline": 2, "micro_size": 2}
    | {"stages_per_worker": 2, "model": {"num_hidden_layers": 5}},
    "rows shared by two": {"world_size": 2, "context": 2, "micro_size": 3},
    "packed": {"world_size": 2, "micro_size": 4, "data": "packed"},
    "packed, rows shared by two": {"world_size": 4, "context": 2, "micro_size": 2, "data": "packed"},
    "adapters with dropout": {"world_size": 2, "micro_size": 2, "lora": True},
    "recomputed": {"world_size": 2, "micro_size": 2, "checkpointing": True, "model": {"model_type": "qwen3"}},
    "split": {"world_size": 4, "tensor": 2, "micro_size": 1},
    "replicas": {"world_size": 4, "replicate": 2, "micro_size": 1},
    "staged, split": {"world_size": 4, "pipeline": 2, "tensor": 2, "micro_size": 2, "model": {"model_type": "qwen3"}},
    "staged adapters": {"world_size": 4, "pipeline": 2, "micro_size": 2, "lora": True},
    "staged four times": {"world_size": 4, "pipeline": 4, "micro_size": 1, "model": {"num_hidden_layers": 5}},
}
MAIN = ("two ranks, in chunks", "staged", "staged, packed", "several stages", "rows shared by two")
LONG_RUN, BEST = 10, {"everySteps": 2, "keep": "best"}
KEPT = {"world_size": 2, "micro_size": 4, "steps": LONG_RUN, "save_steps": 3, "keep": 1, "validation": BEST}
PATIENT = KEPT | {"validation": BEST | {"patience": 2}}
RESTARTS: list[dict[str, Any]] = [
    KEPT | {"name": "best", "recorded": True},
    PATIENT | {"name": "patient", "recorded": True},
    # It has to stop after the step with the best weights, and its checkpoint is written before they are validated.
    PATIENT | {"name": "stopped", "run": "p", "sigterm_after": 2, "stop_after": 3, "save_steps": 100},
    PATIENT | {"name": "gone on", "run": "p", "world_size": 1, "micro_size": 3, "save_steps": 100, "recorded": True},
]


def set_aside(folder: Path) -> None:
    """Rows that are not trained on, of other lengths."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(5)
    ids = [random.integers(1, 64, size=int(length)).tolist() for length in random.integers(3, 40, size=11)]
    write_dataset(folder, ids, [[IGNORED, *row[1:]] for row in ids], [[len(row)] for row in ids])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder where every case of this run has run."""
    folder = tmp_path_factory.mktemp("validate")
    dataset(folder)
    packed_dataset(folder / "packed")
    set_aside(folder / "set-aside")
    packed_dataset(folder / "set-aside" / "packed")
    names = MESHES if runs(request.config, "exactness") else MAIN
    meshes: list[dict[str, Any]] = [EACH | {"name": name} | MESHES[name] for name in names]
    (folder / "cases.json").write_text(json.dumps([*meshes, *RESTARTS]))
    run_script("sharded_run.py", folder, timeout=800)
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def found(folder: Path, name: str) -> dict[int, dict[str, Any]]:
    """The last report of each step that has a validation."""
    reports = read(folder, f"{name}-end")["validations"]
    return {report["step"]: report for report in reports if "last" in report}


class Oracle:
    """A plain process that validates after each step."""

    def __init__(self, folder: Path, steps: int, case: dict[str, Any]) -> None:
        data = case.get("data", "")
        self.rows = Dataset(folder / "set-aside" / data / FILE)
        self.losses: list[float] = []
        self.weights: list[Tensors] = []
        trained = Dataset(folder / data / FILE)
        model = case.get("model", {})
        plain = plain_training(trained, steps, adapter_of(case), after_step=self._validate, **model)
        self.training_losses = plain.losses

    def _validate(self, model: Any) -> None:
        with torch.no_grad():
            self.losses.append(plain_loss(model, self.rows, np.arange(len(self.rows))).item())
        self.weights.append({name: p.detach().clone() for name, p in model.named_parameters()})

    def validated(self, every: int, patience: int = 1000) -> Validated:
        known = Validated()
        for step in range(every, len(self.losses) + 1, every):
            known = known.after(step, self.losses[step - 1])
            if known.worse >= patience:
                break
        return known


@pytest.mark.parametrize("name", sweep("exactness", MESHES, main=MAIN))
def test_the_loss_on_any_grid_is_that_of_one_plain_process_and_changes_no_step(folder: Path, name: str) -> None:
    expected = Oracle(folder, STEPS, MESHES[name])
    assert [found(folder, name)[step]["last"] for step in range(1, STEPS + 1)] == pytest.approx(
        expected.losses, abs=1e-9
    )
    assert read(folder, name) == pytest.approx(expected.training_losses, abs=1e-9)


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Oracle:
    oracle = Oracle(folder, LONG_RUN, KEPT)
    best = oracle.validated(2).best_step
    assert 2 <= best < LONG_RUN - 2  # else the cases show nothing
    return oracle


def test_the_best_weights_are_kept_beside_the_last_ones_and_exported(folder: Path, oracle: Oracle) -> None:
    best, end = oracle.validated(2), read(folder, "best-end")
    assert end["exported"] == best.best_step
    assert sorted(end["kept"]) == [best.best_step, 9]  # the last multiple of save_steps before the end
    assert error(torch.load(folder / "best.pt")["weights"], oracle.weights[best.best_step - 1]) < 1e-10
    last = found(folder, "best")[LONG_RUN]
    assert (last["last"], last["best"]) == (pytest.approx(best.loss), pytest.approx(best.best_loss))
    assert last["best_step"] == best.best_step


def test_training_stops_when_the_loss_has_not_fallen_for_long_enough(folder: Path, oracle: Oracle) -> None:
    expected, end = oracle.validated(2, patience=2), read(folder, "patient-end")
    assert expected.step < LONG_RUN
    assert end["steps"] == expected.step == len(read(folder, "patient"))
    assert error(torch.load(folder / "patient.pt")["weights"], oracle.weights[expected.best_step - 1]) < 1e-10


def test_a_run_that_had_to_stop_goes_on_with_the_same_validations_on_fewer_ranks(folder: Path, oracle: Oracle) -> None:
    whole, end = read(folder, "patient-end"), read(folder, "gone on-end")
    assert oracle.validated(2).best_step == 2
    assert found(folder, "stopped") == {}
    assert [*read(folder, "stopped")[:2], *read(folder, "gone on")] == pytest.approx(read(folder, "patient"), abs=1e-9)
    assert (end["steps"], end["exported"]) == (whole["steps"], whole["exported"])
    assert found(folder, "gone on")[end["steps"]] == pytest.approx(found(folder, "patient")[end["steps"]], abs=1e-9)
    assert error(torch.load(folder / "gone on.pt")["weights"], torch.load(folder / "patient.pt")["weights"]) < 1e-9


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Trained:
    """A run with two checkpoints: that of step 1 is better than that of step 3 and than the present weights."""

    def __init__(self) -> None:
        self.run = taken_over("0000-a")
        self.model = nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        saver = Saver(self.run, self.model, optimizer, keep=1, keep_best=True, background=False)
        known = Validated()
        self.weights = []
        for step, loss in enumerate((0.5, 2.0, 1.0, 3.0), start=1):
            self.model(torch.ones(2)).sum().backward()
            optimizer.step()
            known = known.after(step, loss)
            self.weights.append(self.model.weight.detach().clone())
            if step in (1, 3):
                saver.save(Position(step, validated=known))
        saver.close()
        self.known = known

    def use_best(self) -> int:
        return use_best(self.run, self.model, 4, self.known)

    def damage(self, volume: Path, step: int) -> None:
        (file,) = (volume / "runs" / "uid").glob(f"step-{step:08d}-*/__0_0.distcp")
        file.write_bytes(file.read_bytes()[:100])


@pytest.mark.usefixtures("alone")
def test_the_last_weights_stay_if_the_best_were_never_written(volume: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = Trained()
    for checkpoint in trained.run.complete_checkpoints():
        trained.run.drop(checkpoint)
    assert trained.use_best() == 4
    assert torch.equal(trained.model.weight, trained.weights[3])
    assert "the checkpoint of step 1, the best one, was not written" in caplog.text


@pytest.mark.usefixtures("alone")
def test_a_best_checkpoint_that_cannot_be_loaded_is_dropped_and_the_next_start_uses_the_next_best(
    volume: Path,
) -> None:
    trained = Trained()
    trained.damage(volume, 1)
    with pytest.raises(StageFailure, match=r"CheckpointUnreadable: .*step-00000001-0000-a") as ended:
        trained.use_best()
    assert ended.value.exit_code == 75
    assert trained.use_best() == 3
    assert torch.equal(trained.model.weight, trained.weights[2])
