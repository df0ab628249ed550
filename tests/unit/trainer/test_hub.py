"""A base model of the Hugging Face Hub is the same in all stages, also when its branch moves meanwhile."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from driftloop.contract.result import PrepareResult, decode
from driftloop.contract.task import PrepareTask, encode
from driftloop_trainer.models import config_for
from driftloop_trainer.prepare.newmodel import save_new_model
from unit.trainer import templates
from unit.trainer.hub import REPOSITORY, Hub, hub
from unit.trainer.prepare.test_folder import LLAMA
from unit.trainer.templates import with_template

pytestmark = pytest.mark.timeout(300)

FIRST, SECOND = "a" * 40, "b" * 40
TASK = {
    "job": "job",
    "jobUid": "uid",
    "family": "family",
    "data": {"sources": [{"name": "rows", "uri": "pvc://claim/rows.jsonl"}], "steps": [], "heldOutPercent": 0},
    "storage": "pvc://claim/store",
    "training": {"method": "sft"},
}
# What each rank does with the model: its folder without the weights, and then the weights by ranges.
READ = """
import sys
from pathlib import Path
from driftloop.podlib.tensors import model_tensors
from driftloop_trainer.folders import open_folder
folder = open_folder(sys.argv[1], Path(sys.argv[2]), weights=False)
print((folder / "config.json").exists(), model_tensors(sys.argv[1])[sys.argv[3]].read().sum().item())
"""


@pytest.fixture
def found(volume: Path, tmp_path: Path) -> Iterator[Hub]:
    """A hub whose branch names the first of two commits, which differ in a weight."""
    tokenizer = with_template(templates.CHATML)
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    save_new_model(config_for(LLAMA | vocabulary), tokenizer, 0, tmp_path / FIRST)
    shutil.copytree(tmp_path / FIRST, tmp_path / SECOND)
    weights = load_file(tmp_path / SECOND / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / SECOND / "model.safetensors")
    rows = [{"prompt": f"question {number}", "completion": "yes"} for number in range(8)]
    (volume / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with hub() as started:
        started.commits, started.main = {FIRST: tmp_path / FIRST, SECOND: tmp_path / SECOND}, FIRST
        yield started


def run(found: Hub, *arguments: str, **environment: str) -> str:
    """The output of Python with these arguments, which reaches no other hub."""
    path = os.pathsep.join(filter(None, sys.path))
    settings = {"HF_ENDPOINT": found.endpoint, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": path} | environment
    ended = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def prepared(found: Hub, tmp_path: Path, uri: str, output: str) -> PrepareResult:
    task = PrepareTask.model_validate(TASK | {"model": {"uri": uri}, "output": output})
    told = tmp_path / "told"
    told.unlink(missing_ok=True)
    environment = {"DRIFTLOOP_TASK": encode(task), "DRIFTLOOP_TERMINATION_LOG": str(told)}
    run(found, "-m", "driftloop_trainer.prepare", **environment)
    result = decode(told.read_text())
    assert isinstance(result, PrepareResult)
    return result


def test_prepare_resolves_a_branch_to_its_commit_which_all_later_reads_use(found: Hub, tmp_path: Path) -> None:
    result = prepared(found, tmp_path, f"hf://{REPOSITORY}", "pvc://claim/store/prepared/uid")
    assert result.model_uri == f"hf://{REPOSITORY}@{FIRST}"
    assert (result.model_digest, result.model_unlisted) == (None, False)  # the commit tells it
    assert set(found.asked) == {FIRST}
    found.main = SECOND
    name = "model.embed_tokens.weight"
    sums = run(found, "-c", READ, result.model_uri, str(tmp_path / "rank"), name).split()
    assert sums == ["True", str(load_file(tmp_path / FIRST / "model.safetensors")[name].sum().item())]
    assert set(found.asked) == {FIRST}


def test_a_commit_is_left_as_it_is(found: Hub, tmp_path: Path) -> None:
    result = prepared(found, tmp_path, f"hf://{REPOSITORY}@{SECOND}", "pvc://claim/store/prepared/other")
    assert result.model_uri is None
    assert set(found.asked) == {SECOND}


def test_the_branch_of_a_mirror_that_tells_no_commit_is_used_as_it_is(found: Hub, tmp_path: Path) -> None:
    found.tells = False
    assert prepared(found, tmp_path, f"hf://{REPOSITORY}", "pvc://claim/store/prepared/uid").model_uri is None
