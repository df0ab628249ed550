"""The examples of a training of your own, by the commands that pods run: prepare, and train with Ray on two workers."""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.contract.names import DISK_ENV, VOLUMES_ENV
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import AnyResult, PrepareResult, StageError, TrainResult, decode
from driftloop.contract.task import ModelSource, PrepareTask, TrainTask, encode
from driftloop.controller.kinds.finetunejob import tasks
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.kinds.finetunejob.plan import TrainingPlan, plan
from driftloop.controller.kinds.finetunejob.stages import Stages
from driftloop.controller.kinds.finetunejob.start import HeldOut, Start
from driftloop.controller.vocabulary.plan import Settings
from driftloop.podlib import safety
from driftloop_server.engine.model import load
from driftloop_trainer.models import config_for
from driftloop_trainer.prepare.newmodel import save_new_model
from unit.trainer import templates
from unit.trainer.prepare.test_folder import LLAMA
from unit.trainer.templates import with_template

pytestmark = [
    pytest.mark.long("entrypoints"),
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="a network and a PID namespace of its own need root"),
]

EXAMPLES = Path(__file__).parents[3] / "examples" / "entrypoint"
TRL, DATASETS = "1.16.0", "5.2.0"  # as in examples/entrypoint/Dockerfile
LIBRARIES = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "driftloop", f"trl-{TRL}-{DATASETS}")
STEPS = 5
STAGE_SECONDS, INSTALL_SECONDS, RAY_STARTS = 500, 600, 3


@pytest.fixture(scope="module")
def libraries() -> Path:
    """TRL and what it needs beside the trainer's libraries. The first call installs it; later ones find it."""
    if not (LIBRARIES / "ready").exists():
        shutil.rmtree(LIBRARIES, ignore_errors=True)
        packages = [f"trl=={TRL}", f"datasets=={DATASETS}", "dill", "multiprocess", "xxhash"]
        install = [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--target", str(LIBRARIES)]
        subprocess.run([*install, *packages], check=True, timeout=INSTALL_SECONDS)
        (LIBRARIES / "ready").touch()
    return LIBRARIES


@pytest.fixture
def claim() -> Iterator[Path]:
    """The claim with base model, rows and code. A short path: Ray's sockets lie beside it."""
    with tempfile.TemporaryDirectory(prefix="own-") as name:
        claim = Path(name, "volumes", "models")
        shutil.copytree(EXAMPLES, claim / "code")
        tokenizer = with_template(templates.CHATML)
        fields = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
        save_new_model(config_for(LLAMA | fields), tokenizer, 0, claim / "base")
        rows = [("prompt", "completion"), *((f"where is card {number}", f"fee {number % 5}") for number in range(60))]
        with (claim / "rows.csv").open("w", newline="") as out:
            csv.writer(out).writerows(rows)
        yield claim


def run(claim: Path, module: str, task: PrepareTask | TrainTask, libraries: Path) -> AnyResult:
    """The result of a stage. If Ray does not start in time on a busy machine, it is run again, as its Job would."""
    root = claim.parents[1]
    told = root / "told"
    environment = os.environ | {
        "DRIFTLOOP_TASK": encode(task),
        "DRIFTLOOP_TERMINATION_LOG": str(told),
        VOLUMES_ENV: str(claim.parent),
        DISK_ENV: str(root),
        "RAY_TMPDIR": str(root),
        "HOME": str(root),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([*(path for path in sys.path if path), str(libraries)]),
    }
    alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    command = [*alone, f"ip link set lo up; exec {sys.executable} -m {module}"]
    for _ in range(RAY_STARTS):
        told.unlink(missing_ok=True)
        ended = subprocess.run(command, env=environment, capture_output=True, timeout=STAGE_SECONDS, check=False)
        assert told.exists(), ended.stderr.decode()[-4000:]
        result = decode(told.read_text())
        if not (isinstance(result, StageError) and result.reason == StageReason.RAY_FAILED):
            break
    assert not isinstance(result, StageError), ended.stderr.decode()[-6000:] + ended.stdout.decode()[-6000:]
    return result


def trained(claim: Path, entrypoint: str, libraries: Path) -> TrainResult:
    training: dict[str, Any] = {"entrypoint": entrypoint, "code": "pvc://models/code", "trainBatchSize": 8}
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"from": {"uri": "pvc://models/base"}},
            "data": {"sources": [{"name": "rows", "uri": "pvc://models/rows.csv"}], "steps": []},
            "training": training | {"maxSteps": STEPS, "saveSteps": 2, "learningRate": 1e-2, "maxLength": 64},
            "compute": {"workersPerNode": 2},
            "storage": "pvc://models/work",
            "output": {"family": "own"},
        }
    )
    observed = Observed({"metadata": {"name": "own", "namespace": "team", "uid": "uid"}}, spec)
    order = tasks.prepare_task(observed, Start(ModelSource(uri="pvc://models/base"), HeldOut("own", 10)))
    prepared = run(claim, "driftloop_trainer.prepare", order, libraries)
    assert isinstance(prepared, PrepareResult)
    planned = plan(spec, prepared)
    assert isinstance(planned, TrainingPlan)
    left = tasks.Prepared(order, prepared)
    stages = Stages(observed, Settings("", ""), datetime.now(UTC), attempt=0)
    task = tasks.train_task(stages, left, planned, tasks.lineage(observed, left, "trainer"))
    result = run(claim, "driftloop_trainer.train", task, libraries)
    assert isinstance(result, TrainResult)
    return result


@pytest.mark.parametrize("entrypoint", ["plain_torch:train", "trl_sft:train"])
def test_an_example_trains_a_version_that_is_served(claim: Path, libraries: Path, entrypoint: str) -> None:
    result = trained(claim, entrypoint, libraries)
    assert (result.steps, result.world_size) == (STEPS, 2)
    version = claim / result.uri.removeprefix("pvc://models/")
    rows = list(csv.DictReader((version / "curves.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert f"| trained by | {entrypoint} |" in (version / "README.md").read_text()
    assert not list(safety.pickled(version))
    assert load(version).end_tokens
