"""The cells of the plan's table of which the other tests have no case have the results of plain training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from driftloop.controller.kinds.finetunejob.cells import CELLS, Cell
from driftloop_trainer.dataset import FILE, Dataset
from parts import runs, sweep
from unit.trainer.cellcases import case_of, cell_of
from unit.trainer.ranks import run_script
from unit.trainer.sharded_run import STEPS, adapter_of
from unit.trainer.test_compiled_exactness import CASES as COMPILED
from unit.trainer.test_compiled_exactness import COMMON
from unit.trainer.test_exactness import CASES as OTHERS
from unit.trainer.test_exactness import (
    dataset,
    drop_copies,
    error,
    losses,
    packed_dataset,
    plain_training,
    typed,
)

pytestmark = pytest.mark.timeout(3600)

TESTED = {cell_of(case) for case in OTHERS} | {cell_of(COMMON | case) for case in COMPILED.values()}


def fields_of(model_type: str) -> dict[str, Any]:
    """The configuration of a tiny model of this type."""
    return typed(model_type, tied=True) | ({"num_local_experts": 6} if model_type == "mixtral" else {})


def is_here(cell: Cell) -> bool:
    """Whether this file has to test the cell. Float8 and comparing methods have files of their own."""
    return cell not in TESTED and cell.method == "sft" and not cell.float8


CASES = {str(cell): case_of(cell, fields_of(cell.model_type)) for cell in sorted(filter(is_here, CELLS), key=str)}
MAIN = (
    "qwen3, sft, adapter lora, packed rows, pipeline x fsdp",
    "qwen3, sft, adapter qlora, packed rows, replicate x fsdp",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder where every case of this run has run."""
    folder = tmp_path_factory.mktemp("cells")
    dataset(folder)
    packed_dataset(folder / "packed")
    names = CASES if runs(request.config, "exactness") else MAIN
    cases = [CASES[name] | {"name": name, "save_steps": 100, "recorded": True} for name in names]
    (folder / "cases.json").write_text(json.dumps(cases))
    run_script("sharded_run.py", folder, timeout=3500)
    return folder


@pytest.mark.parametrize("name", sweep("exactness", CASES, main=MAIN))
def test_a_cell_has_the_losses_gradients_and_weights_of_one_plain_process(folder: Path, name: str) -> None:
    case = CASES[name]
    expected = plain_training(Dataset(folder / case.get("data", "") / FILE), STEPS, adapter_of(case), **case["model"])
    found = torch.load(folder / f"{name}.pt")
    assert losses(folder, name) == pytest.approx(expected.losses, rel=1e-12)
    assert len(found["gradients"]) == STEPS
    for tensors in (*found["gradients"], found["weights"]):
        drop_copies(tensors, expected.weights)
    assert max(map(error, found["gradients"], expected.gradients)) < 1e-12
    assert error(found["weights"], expected.weights) < 1e-10
    if "compiled" in case:
        compiled = json.loads((folder / f"{name}-end.json").read_text())["compiled"]
        assert 0 < compiled["frames"]["ok"] == compiled["frames"]["total"]
