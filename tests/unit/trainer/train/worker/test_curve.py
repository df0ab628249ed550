import csv
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from driftloop.contract.manifest import Manifest
from driftloop_trainer.dataset import FILE, Dataset
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import Position, Run
from driftloop_trainer.train.worker import curve as module
from driftloop_trainer.train.worker.checkpoint import resume
from driftloop_trainer.train.worker.curve import Curve, curve_before, write_curves
from driftloop_trainer.train.worker.export import Export, export
from driftloop_trainer.train.worker.loading import ShardedModel, load_sharded
from driftloop_trainer.train.worker.loop import Loop, build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.nexttoken import NextToken
from unit.trainer import templates
from unit.trainer.charts.test_canvas import pixels
from unit.trainer.conftest import taken_over
from unit.trainer.prepare.test_folder import folder, prepared
from unit.trainer.train.worker.test_export import ROWS, task

STEPS, SAVE_STEPS = 6, 2


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def steps(curve: Curve) -> list[int]:
    return [int(row["step"]) for row in csv.DictReader(curve.text().splitlines())]


def curve(first: int, last: int, loss: float = 1.0) -> Curve:
    """A curve whose steps all have this loss."""
    made = Curve()
    for step in range(first, last + 1):
        made.add(step, {"loss": loss, "learning_rate": 2e-5})
    return made


def test_a_table_reads_as_it_was_written() -> None:
    made = Curve()
    made.add(1, {"loss": 2.5, "tokens_per_second": 36_125.5})
    made.add(2, {"loss": math.nan, "tokens_per_second": 1e-7})
    made.add(3, {"loss": 2.25, "tokens_per_second": 3.0, "reward_margin": -0.5})
    assert made.text() == ("step,loss,tokens_per_second,reward_margin\n1,2.5,36125.5,\n2,,1e-07,\n3,2.25,3,-0.5\n")
    assert Curve.parse(made.text()).text() == made.text()


def test_a_checkpoint_has_the_rows_up_to_its_step() -> None:
    assert steps(Curve.parse(curve(1, 9).text(4))) == [1, 2, 3, 4]


def test_a_validation_is_in_the_row_of_its_step() -> None:
    made = curve(1, 3)
    made.extend({"validation_loss": 1.5})
    made.add(4, {"loss": 4.0})
    rows = list(csv.DictReader(made.text().splitlines()))
    assert [row["validation_loss"] for row in rows] == ["", "", "1.5", ""]
    assert made.picture()


def test_a_long_curve_keeps_its_last_steps_whole_and_means_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 16)
    made = Curve()
    for step in range(1, 101):
        made.add(step, {"loss": float(step)})
    rows = list(csv.DictReader(made.text().splitlines()))
    assert len(rows) <= 16
    assert [int(row["step"]) for row in rows[-4:]] == [97, 98, 99, 100]
    first = [(int(row["step"]), float(row["loss"])) for row in rows[:3]]
    assert first == [(16, 8.5), (32, 24.5), (48, 40.5)]


@pytest.mark.parametrize("text", ["step,loss\nx,1\n", "loss\n1\n", "step,loss\n1,2,3\n", "step,loss\n,2\n", '"\n'])
def test_a_table_that_is_none_is_left_out_and_training_goes_on(
    volume: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = taken_over("0000-a")
    saved = run.complete(run.begin(3), keep=2, curve=text)
    assert len(curve_before(saved.position)) == 0
    assert "begins here" in caplog.text


def test_a_checkpoint_of_an_older_version_has_no_curve(volume: Path) -> None:
    run = taken_over("0000-a")
    saved = run.complete(run.begin(3), keep=2, curve="step,loss\n3,1.5\n")
    assert steps(curve_before(saved.position)) == [3]
    next((volume / "runs").rglob("curve.csv")).unlink()
    assert len(curve_before(saved.position)) == 0
    assert len(curve_before(Position())) == 0


def test_curves_are_a_table_and_a_picture(tmp_path: Path) -> None:
    assert write_curves(curve(1, 50), tmp_path)
    assert (tmp_path / "curves.csv").read_text().startswith("step,loss,learning_rate\n1,1,2e-05\n")
    assert pixels((tmp_path / "curves.png").read_bytes()).shape[2] == 3
    assert not write_curves(Curve(), tmp_path / "nothing")


def test_a_picture_that_can_t_be_drawn_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "chart", lambda _: 1 / 0)
    assert not write_curves(curve(1, 2), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert "no curves" in caplog.text


class Killed(Exception):
    """The pod ends here."""


def trained(volume: Path, run: Run, killed_after: int | None = None) -> tuple[ShardedModel, Curve, Position]:
    """What one start of the workers leaves: it resumes from the last checkpoint, if there is one."""
    job = task(volume, trainBatchSize=2, saveSteps=SAVE_STEPS, learningRate=1e-3, warmupRatio=0.5)
    sharded = load_sharded(volume / "base", "pvc://claim/base", job.training, Mesh.of("cpu"), torch.device("cpu"))
    optimizer = build_optimizer(sharded.model, job.training)
    begun = resume(run, sharded.model, optimizer)
    method = NextToken(Dataset(folder(volume) / FILE), 0)
    cpu = torch.device("cpu")
    loop = Loop(job.training, method, 2, STEPS, cpu, Mesh.of("cpu"), background=False, curve=curve_before(begun))

    def report(progress: Progress) -> None:
        if progress.step == killed_after:
            raise Killed

    with suppress(Killed):
        loop.run(sharded.model, optimizer, run, begun, report)
    return sharded, loop.curve, begun


@pytest.mark.usefixtures("alone")
def test_a_run_that_resumes_continues_its_curve_and_has_no_step_twice(volume: Path) -> None:
    prepared(volume, ROWS, templates.CHATML)
    _, first, _ = trained(volume, taken_over("0000-a"), killed_after=5)
    _, last, begun = trained(volume, taken_over("0001-b"))
    assert begun.step == 4
    assert steps(first) == [1, 2, 3, 4, 5]
    assert steps(last) == [1, 2, 3, 4, 5, 6]
    assert last.text(4) == first.text(4)


@pytest.mark.usefixtures("alone")
def test_a_version_has_the_curves_of_its_training_in_its_card_and_its_manifest(volume: Path, tmp_path: Path) -> None:
    prepared(volume, ROWS, templates.CHATML)
    sharded, whole, _ = trained(volume, taken_over("0000-a"))
    job = task(volume)
    export(sharded, Export(job, volume / "base", folder(volume), {}, job.output, whole), tmp_path)
    version = volume / "versions" / "uid"
    rows: list[dict[str, Any]] = list(csv.DictReader((version / "curves.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert all(float(row["loss"]) > 0 and float(row["tokens_per_second"]) > 0 for row in rows)
    rates = [float(row["learning_rate"]) for row in rows]
    assert max(rates) == rates[2] == 1e-3  # the end of the warm-up
    assert pixels((version / "curves.png").read_bytes()).shape[2] == 3
    assert "(curves.png)" in (version / "README.md").read_text()
    manifest = Manifest.read(version)
    manifest.verify(version)
    assert {"curves.csv", "curves.png"} <= {entry.path for entry in manifest.files}
