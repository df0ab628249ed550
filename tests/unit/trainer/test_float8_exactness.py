"""Training in float8 is the same on any workers, in any micro-batches, compiled or not, and after a restart.

What is computed in float8 is emulated on the CPU: rounded to float8, and multiplied in float64. A value that differs in
its last bits between two splits of the rows is rounded to the same float8, so the bounds are those of plain training.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from driftloop.controller.kinds.finetunejob.compiling import COMPILED_TYPES
from driftloop_trainer.dataset import FILE, Dataset
from parts import runs, sweep
from unit.trainer.ranks import run_script
from unit.trainer.sharded_run import STEPS
from unit.trainer.test_compiled_exactness import EAGER
from unit.trainer.test_exactness import dataset, error, losses, packed_dataset, plain_training

pytestmark = pytest.mark.timeout(2400)

CASES: dict[str, dict[str, Any]] = {
    "one rank": {"world_size": 1, "micro_size": 3},
    "accumulated": {"micro_size": 1},
    "reduced each time": {"micro_size": 1, "reduction": "microBatch"},
    "recomputed": {"checkpointing": True, "micro_size": 2},
    "in chunks": {"chunk": 8},
    "replicas": {"compiled": EAGER, "world_size": 4, "replicate": 2, "micro_size": 1},
    "stages": {"compiled": EAGER, "pipeline": 2, "micro_size": 2},
    "several stages": {"compiled": EAGER, "pipeline": 2, "micro_size": 2, "stages_per_worker": 2}
    | {"model": {"num_hidden_layers": 4}},
    "compiled": {"compiled": EAGER, "micro_size": 2},
    "compiled, packed, recomputed": {"compiled": EAGER, "data": "packed", "micro_size": 2, "checkpointing": True},
    **{model_type: {"compiled": EAGER, "model": {"model_type": model_type}} for model_type in COMPILED_TYPES},
    **{f"{model_type}, packed": {"compiled": EAGER, "model": {"model_type": model_type}, "data": "packed"}
       for model_type in COMPILED_TYPES},
}  # fmt: skip
KILLED = {"name": "killed", "save_steps": 2, "run": "interrupted", "stop_after": 3}
RESUMED = {"name": "resumed", "world_size": 1, "micro_size": 3, "run": "interrupted"}
COMMON = {"world_size": 2, "micro_size": 4, "save_steps": 100}
MAIN = ("accumulated", "compiled, packed, recomputed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder where every case of this run has run."""
    folder = tmp_path_factory.mktemp("float8")
    dataset(folder)
    packed_dataset(folder / "packed")
    names = CASES if runs(request.config, "exactness") else MAIN
    cases = [{"name": name, "recorded": True} | CASES[name] for name in names] + [KILLED, RESUMED]
    document = [COMMON | case | {"model": in_float8(case)} for case in cases]
    (folder / "cases.json").write_text(json.dumps(document))
    run_script("sharded_run.py", folder, timeout=2300)
    return folder


def in_float8(case: dict[str, Any]) -> dict[str, Any]:
    """The model of a case."""
    model: dict[str, Any] = {"float8": True} | case.get("model", {})
    return model


@pytest.mark.parametrize("name", sweep("exactness", CASES, main=MAIN))
def test_losses_gradients_and_weights_are_those_of_one_process(folder: Path, name: str) -> None:
    case = CASES[name]
    expected = plain_training(Dataset(folder / case.get("data", "") / FILE), STEPS, **in_float8(case))
    found = torch.load(folder / f"{name}.pt")
    assert losses(folder, name) == pytest.approx(expected.losses, rel=1e-12)
    # The last stage of a pipeline has the tied embeddings once more, under the name of the output layer.
    gradients = [{name: step[name] for name in expected.weights} for step in found["gradients"]]
    assert max(map(error, gradients, expected.gradients)) < 1e-12
    assert error({name: found["weights"][name] for name in expected.weights}, expected.weights) < 1e-10


def test_after_a_restart_on_fewer_workers_the_steps_are_those_of_an_uninterrupted_run(folder: Path) -> None:
    expected = plain_training(Dataset(folder / FILE), STEPS, float8=True).losses
    assert losses(folder, "killed") == pytest.approx(expected[:3], rel=1e-12)
    assert losses(folder, "resumed") == pytest.approx(expected[2:], rel=1e-9)


def test_the_losses_are_not_those_of_training_without_float8(folder: Path) -> None:
    data = Dataset(folder / FILE)
    plain, rounded = (plain_training(data, 1, float8=float8).losses for float8 in (False, True))
    assert plain != pytest.approx(rounded, rel=1e-9)
