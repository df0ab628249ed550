"""Compiled layers are the same as plain training, on one rank and on two, for every shape of a micro-batch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from driftloop.controller.kinds.finetunejob.compiling import COMPILED_TYPES
from driftloop_trainer.dataset import FILE, Dataset
from parts import runs, sweep
from unit.trainer.ranks import run_script
from unit.trainer.sharded_run import STEPS, adapter_of
from unit.trainer.test_exactness import dataset, drop_copies, error, losses, packed_dataset, plain_training

pytestmark = pytest.mark.timeout(2400)

EAGER = "aot_eager"  # what is compiled for a GPU, too, but run by torch's own kernels
CASES: dict[str, dict[str, Any]] = {
    "one rank": {"world_size": 1, "micro_size": 3},
    "adapters of packed rows, recomputed, in chunks": {
        "data": "packed",
        "lora": True,
        "checkpointing": True,
        "chunk": 8,
        "micro_size": 2,
    },
    "accumulated": {"micro_size": 1},
    "in chunks": {"chunk": 8},
    "recomputed": {"checkpointing": True, "micro_size": 2},
    "adapters": {"lora": True, "micro_size": 2},
    "adapters, in chunks": {"lora": True, "chunk": 8},
    "matrices cut in two": {"osf": True},
    "matrices of 4 bits": {"qlora": True},
    "rows shared by two": {"context": 2, "micro_size": 2},
    "packed": {"data": "packed", "micro_size": 2},
    "replicas": {"world_size": 4, "replicate": 2, "micro_size": 1},
    "stages of packed adapters": {"pipeline": 2, "micro_size": 2, "data": "packed", "lora": True},
    "several stages": {"pipeline": 2, "micro_size": 2, "stages_per_worker": 2, "model": {"num_hidden_layers": 4}},
    "windows": {"model": {"model_type": "mistral", "sliding_window": 5}},
    "packed, windows": {"data": "packed", "model": {"model_type": "mistral", "sliding_window": 5}},
    **{model_type: {"model": {"model_type": model_type}} for model_type in COMPILED_TYPES},
    **{f"{model_type}, packed adapters": {"model": {"model_type": model_type}, "data": "packed", "lora": True}
       for model_type in COMPILED_TYPES},
}  # fmt: skip
COMMON = {"world_size": 2, "micro_size": 4, "save_steps": 100, "recorded": True, "compiled": EAGER}
MAIN = ("one rank", "adapters of packed rows, recomputed, in chunks")
# Of a layer: for the first shape, for other rows and tokens, for one row; each with and without a gradient of its
# input, and apart on both sides of the attention of packed rows. Of the loss: for the first chunk and for others.
MOST_GRAPHS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder where every case of this run has run."""
    folder = tmp_path_factory.mktemp("compiled")
    dataset(folder)
    packed_dataset(folder / "packed")
    names = CASES if runs(request.config, "exactness") else MAIN
    (folder / "cases.json").write_text(json.dumps([COMMON | CASES[name] | {"name": name} for name in names]))
    run_script("sharded_run.py", folder, timeout=2300)
    return folder


@pytest.mark.parametrize("name", sweep("exactness", CASES, main=MAIN))
def test_compiled_layers_give_the_losses_gradients_and_weights_of_plain_training(folder: Path, name: str) -> None:
    case = CASES[name]
    data = Dataset(folder / case.get("data", "") / FILE)
    expected = plain_training(data, STEPS, adapter_of(case), **case.get("model", {}))
    found = torch.load(folder / f"{name}.pt")
    assert losses(folder, name) == pytest.approx(expected.losses, rel=1e-12)
    for tensors in (*found["gradients"], found["weights"]):
        drop_copies(tensors, expected.weights)
    assert max(map(error, found["gradients"], expected.gradients)) < 1e-12
    assert error(found["weights"], expected.weights) < 1e-10
    compiled = json.loads((folder / f"{name}-end.json").read_text())["compiled"]
    assert 0 < compiled["graphs"] <= MOST_GRAPHS
    assert compiled["frames"]["ok"] == compiled["frames"]["total"]
