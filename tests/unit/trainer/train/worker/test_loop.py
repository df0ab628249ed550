"""What two ranks do when rows have no finite loss."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from driftloop.contract.course import Course
from driftloop_trainer.dataset import FILE, Dataset, write_dataset
from driftloop_trainer.train.worker.order import Order
from unit.trainer.ranks import run_script
from unit.trainer.sharded_run import STEPS, training
from unit.trainer.test_exactness import dataset, plain_losses

pytestmark = pytest.mark.timeout(600)  # as in test_exactness.py

BROKEN_TOKEN = 64
MODEL: dict[str, Any] = {"vocab_size": 65, "tie_word_embeddings": False, "broken_token": BROKEN_TOKEN}
BROKEN_ROW = 5
MICRO = 2
CASE: dict[str, Any] = {"world_size": 2, "micro_size": MICRO, "model": MODEL}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks ran on rows of which one is broken, in two parts and in stages, and on rows that are all broken."""
    folder = tmp_path_factory.mktemp("skips")
    good = dataset(folder)
    ids = [good.ids(index).tolist() for index in range(len(good))]
    broken = [[*row[:-1], BROKEN_TOKEN] if index == BROKEN_ROW else row for index, row in enumerate(ids)]
    for name, rows in (
        ("one", broken),
        ("cut", broken),
        ("shared", broken),
        ("all", [[*row[:-1], BROKEN_TOKEN] for row in ids]),
    ):
        (folder / name).mkdir()
        labels = [good.labels(index).tolist() for index in range(len(good))]
        places = [[f"source {name}, line {index}"] for index in range(len(ids))]
        write_dataset(folder / name, rows, labels, [[len(row)] for row in rows], places)
    cases: list[dict[str, Any]] = [
        CASE | {"name": "one broken row", "data": "one", "save_steps": 1, "run": "r", "stop_after": 4},
        CASE | {"name": "gone on", "data": "one", "save_steps": 100, "run": "r"},
        CASE | {"name": "in stages", "data": "cut", "save_steps": 100, "pipeline": 2},
        CASE | {"name": "shared", "data": "shared", "save_steps": 100, "context": 2},
        CASE | {"name": "all broken", "data": "all", "save_steps": 2},
    ]
    (folder / "cases.json").write_text(json.dumps(cases))
    run_script("sharded_run.py", folder)
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def steps_with(folder: Path, row: int) -> list[int]:
    data, spec = Dataset(folder / "one" / FILE), training()
    order = Order(data.lengths, Course.of(spec, len(data)), spec.seed)
    return [step for step in range(STEPS) if row in order.batch(step)]


def test_a_step_with_a_broken_row_changes_nothing_and_training_goes_on(folder: Path) -> None:
    skipped = steps_with(folder, BROKEN_ROW)
    assert 0 < len(skipped) < 3
    expected = plain_losses(Dataset(folder / "one" / FILE), skipped=skipped, **MODEL)
    assert [*read(folder, "one broken row"), *read(folder, "gone on")[1:]] == pytest.approx(
        expected, abs=1e-9, nan_ok=True
    )


def test_the_skipped_steps_are_counted_over_a_restart(folder: Path) -> None:
    end = read(folder, "gone on-end")
    assert end["skipped"] == len(steps_with(folder, BROKEN_ROW))
    assert math.isfinite(end["loss"])


def test_the_rank_that_has_the_broken_row_names_it(folder: Path) -> None:
    log = (folder / "ranks.log").read_text()
    named = [line for line in log.splitlines() if f"source one, line {BROKEN_ROW}" in line]
    assert len(named) == len(steps_with(folder, BROKEN_ROW))
    assert all(line.count("source one") <= MICRO for line in named)


def test_all_stages_skip_a_step_and_name_the_rows_of_which_the_last_one_has_the_loss(folder: Path) -> None:
    skipped = steps_with(folder, BROKEN_ROW)
    expected = plain_losses(Dataset(folder / "one" / FILE), skipped=skipped, **MODEL)
    assert read(folder, "in stages") == pytest.approx(expected, abs=1e-9, nan_ok=True)
    lines = [line for line in (folder / "ranks.log").read_text().splitlines() if "source cut" in line]
    assert len(lines) == 2 * len(skipped)
    assert all(f"line {BROKEN_ROW}" in line and line.count("source cut") <= MICRO for line in lines)


def test_all_workers_that_share_rows_name_those_of_a_micro_batch_in_which_any_of_them_has_no_finite_loss(
    folder: Path,
) -> None:
    skipped = steps_with(folder, BROKEN_ROW)
    expected = plain_losses(Dataset(folder / "one" / FILE), skipped=skipped, **MODEL)
    assert read(folder, "shared") == pytest.approx(expected, abs=1e-9, nan_ok=True)
    lines = [line for line in (folder / "ranks.log").read_text().splitlines() if "source shared" in line]
    assert len(lines) == 2 * len(skipped)
    assert all(f"line {BROKEN_ROW}" in line and line.count("source shared") <= MICRO for line in lines)


def test_the_last_checkpoint_is_reported_also_after_a_restart(folder: Path) -> None:
    checkpoints = read(folder, "one broken row-end")["checkpoints"]
    assert checkpoints == sorted(checkpoints)
    assert all(last < step for step, last in enumerate(checkpoints, start=1))
    # A checkpoint is complete before the next one begins.
    assert all(last >= step - 2 for step, last in enumerate(checkpoints, start=1))
    assert read(folder, "gone on-end")["checkpoints"] == [3, 3]


def test_three_skipped_steps_in_a_row_end_training_on_all_ranks_with_the_rows(folder: Path) -> None:
    assert len(read(folder, "all broken")) == 2  # the third step was not reported
    failure = read(folder, "all broken-end")["failure"]
    assert failure.startswith("NonFiniteLoss: loss nan")
    data, spec = Dataset(folder / "all" / FILE), training()
    order = Order(data.lengths, Course.of(spec, len(data)), spec.seed)
    assert all(f"source all, line {row}" in failure for row in order.batch(2))
