"""A training of the user's own: the plain example on two ranks through what the workers of pods call, and bad ones."""

import csv
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.manifest import Manifest
from driftloop.podlib.ending import StageFailure
from driftloop_server.engine.model import load
from driftloop_trainer.train.assignment import Outcome
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.worker.own import function_of
from unit.trainer import own_run, templates
from unit.trainer.own_run import STEPS
from unit.trainer.prepare.test_folder import LLAMA, prepared
from unit.trainer.train.worker.test_export import ROWS

EXAMPLE = Path(__file__).parents[5] / "examples" / "entrypoint" / "plain_torch.py"
# The same example in pods that are lost after the fifth step, and trainings that leave no model, or a pickle with it.
OTHERS = """
import plain_torch

def lost(context):
    asked, steps = context.must_stop, []
    def must_stop():
        steps.append(1)
        if len(steps) == 5:
            raise InterruptedError
        return asked()
    context.must_stop = must_stop
    plain_torch.train(context)

def nothing(context):
    pass

def broken(context):
    context.report(1, los=0.5)

def pickled(context):
    plain_torch.train(context)
    if context.rank == 0:
        (context.output / "training_args.bin").write_bytes(b"x")
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the tests, after all drivers have ended."""
    path = tmp_path_factory.mktemp("own")
    volume = path / "volumes" / "claim"
    (volume / "code").mkdir(parents=True)
    (volume / "code" / "plain_torch.py").write_text(EXAMPLE.read_text())
    (volume / "code" / "others.py").write_text(OTHERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIFTLOOP_VOLUMES", str(path / "volumes"))
        prepared(volume, ROWS * 3, templates.CHATML, architecture=LLAMA)
        run_script(path)
        yield path


def run_script(path: Path) -> None:
    """Run the trainings in a process of its own: threads of this one would not survive in forks of it."""
    environment = os.environ | {"TMPDIR": str(path), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    log = path / "ranks.log"
    with log.open("w") as output:
        ranks = subprocess.run([sys.executable, own_run.__file__, path], env=environment, stderr=output, timeout=240)
    assert ranks.returncode == 0, log.read_text()


def end_of(path: Path, token: str) -> tuple[list[Progress], Outcome]:
    reported, outcome = pickle.loads((path / f"{token}.pickle").read_bytes())
    return reported, outcome


def test_it_reports_its_steps_and_leaves_a_version_that_is_served(ended: Path) -> None:
    reported, outcome = end_of(ended, "0001-b")
    assert outcome.failure is None
    assert reported[-1].step == reported[-1].total == STEPS
    assert reported[-1].tokens_per_second > 0
    version = ended / "volumes" / "claim" / "versions" / "uid" / "0001-b"
    assert outcome.uri == "pvc://claim/versions/uid/0001-b"
    assert Manifest.read(version).digest == outcome.digest
    assert {"config.json", "model.safetensors", "tokenizer.json", "curves.png"} <= {
        path.name for path in version.iterdir()
    }
    assert "| trained by | plain_torch:train |" in (version / "README.md").read_text()
    assert load(version).end_tokens


def test_after_a_loss_of_its_pods_it_resumes_and_ends_as_without_it(ended: Path) -> None:
    before, interrupted = end_of(ended, "0000-a")
    after, outcome = end_of(ended, "0001-b")
    assert interrupted is None
    assert [progress.step for progress in before] == [1, 2, 3, 4, 5]
    assert [progress.step for progress in after] == [5, 6]
    assert after[0].checkpoint_step == outcome.first_step == 4
    assert outcome.restarts == 1
    whole = [progress.loss for progress in end_of(ended, "0000-c")[0]]
    resumed = [*(progress.loss for progress in before[:4]), *(progress.loss for progress in after)]
    assert resumed == pytest.approx(whole, rel=1e-5)
    assert whole[-1] < whole[0]
    table = (ended / "volumes" / "claim" / "versions" / "uid" / "0001-b" / "curves.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [float(row["loss"]) for row in rows] == pytest.approx(whole, rel=1e-4)


def test_a_pickle_beside_the_model_is_left_out(ended: Path) -> None:
    _, outcome = end_of(ended, "0000-c")
    version = ended / "volumes" / "claim" / "versions" / "whole" / "0000-c"
    assert outcome.failure is None
    assert "training_args.bin" not in json.dumps(Manifest.read(version).dump())


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("0000-f", "BadEntrypoint: others:broken has a bug: TypeError: Context.report() missing 1 required"),
        (
            "0000-d",
            "BadEntrypoint: others:nothing left no model that can be served: context.output: no readable",
        ),
        (
            "0000-e",
            "BadEntrypoint: training.entrypoint: others:missing from pvc://claim/code or the image can't be",
        ),
    ],
)
def test_without_a_function_or_a_model_the_job_fails_with_what_is_wrong(ended: Path, token: str, message: str) -> None:
    _, outcome = end_of(ended, token)
    assert str(outcome.failure).startswith(message)
    assert outcome.failure is not None
    assert outcome.failure.exit_code == 78


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("def train(): ...", "TypeError: too many positional arguments"),
        ("train = 3", "TypeError: 3 is not a callable object"),
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_entrypoint_that_can_t_be_called_says_why(
    volume: Path, content: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "wrong", raising=False)
    (volume / "code").mkdir()
    (volume / "code" / "wrong.py").write_text(content)
    spec = TrainingSpec(entrypoint="wrong:train", code="pvc://claim/code")
    with pytest.raises(StageFailure, match="can't be called with a Context") as refused:
        function_of(spec)
    assert cause in refused.value.message
