"""A training that loses nodes, gets them back, or loses a rank in any phase: by the pods' own command and real Ray."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.course import Course
from driftloop.contract.result import TrainResult, decode
from driftloop.contract.task import TrainTask, encode
from driftloop_trainer.dataset import FILE, Dataset
from driftloop_trainer.train.worker.order import Order
from unit.trainer import templates
from unit.trainer.elastic_pods import DEATHS, ROWS, records
from unit.trainer.prepare.test_folder import folder as prepared_folder
from unit.trainer.prepare.test_folder import prepared
from unit.trainer.train.worker.test_export import task_document

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="a network and a PID namespace of its own need root"),
    pytest.mark.long("faults"),
]

STEPS, SAVE_STEPS = 60, 4
TRAINING = {"trainBatchSize": 8, "maxSteps": STEPS, "saveSteps": SAVE_STEPS, "learningRate": 1e-3, "bf16": False}


def task(uid: str, **fields: Any) -> str:
    places = {"jobUid": uid, "runs": f"pvc://claim/runs/{uid}", "output": f"pvc://claim/versions/{uid}"}
    document = task_document() | {"training": TRAINING, "totalSteps": STEPS, "head": "localhost"} | places | fields
    document |= {"startupTimeoutSeconds": 600}
    return encode(TrainTask.model_validate(document))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder where a training has lost a node, got it back, and lost it again; another one a rank in each phase."""
    assert shutil.which("unshare"), "util-linux is needed: apt-get install util-linux"
    with tempfile.TemporaryDirectory(prefix="el-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)  # a short path, as Ray's sockets lie below it
        patch.setenv("DRIFTLOOP_VOLUMES", str(folder / "volumes"))
        volume = folder / "volumes" / "claim"
        volume.mkdir(parents=True)
        said = [(("user", f"question {n}"), ("assistant", f"yes {n}")) for n in range(90)]
        chats = [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in said]
        digest = prepared(volume, chats, templates.CHATML).digest
        elastic = {"nodes": 2, "elastic": {"minNodes": 1, "waitSeconds": 2}}
        (folder / "elastic.json").write_text(task("elastic", dataDigest=digest, **elastic))
        (folder / "plain.json").write_text(task("plain", dataDigest=digest))
        phases = {"workersPerNode": 2, "backoffLimit": len(DEATHS)}
        (folder / "phases.json").write_text(task("phases", dataDigest=digest, **phases))
        run_pods(folder)
        yield folder


def run_pods(folder: Path) -> None:
    """Run the pods, on a loopback of their own."""
    script = Path(__file__).with_name("elastic_pods.py")
    alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    ran = subprocess.run(
        [*alone, 'ip link set lo up; exec "$@"', "sh", sys.executable, str(script), str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.PIPE,
        text=True,
        timeout=1700,
        check=False,
    )
    logs = "".join(f"{path.name}:\n{path.read_text()[-6000:]}" for path in sorted(folder.glob("*.log")))
    assert ran.returncode == 0, f"{ran.stderr}\n{logs}"


def result(folder: Path, name: str) -> TrainResult:
    found = decode((folder / f"{name}-0.result").read_text())
    assert isinstance(found, TrainResult)
    return found


def test_no_row_is_trained_twice_and_none_is_left_out_through_two_lost_nodes_and_a_resize(folder: Path) -> None:
    found = records(folder, "elastic")
    last = {step: max(r["start"] for r in found if r["step"] == step) for step in {r["step"] for r in found}}
    counting = {step: [r for r in found if (r["step"], r["start"]) == (step, start)] for step, start in last.items()}
    assert all(len(ranks) == ranks[0]["ranks"] for ranks in counting.values())
    trained = {step: sorted(row for rank in ranks for row in rank["rows"]) for step, ranks in counting.items()}
    data = Dataset(prepared_folder(folder / "volumes" / "claim") / FILE)
    spec = TrainingSpec.model_validate(TRAINING)
    order = Order(data.lengths, Course.of(spec, len(data)), spec.seed)
    assert trained == {step: sorted(order.batch(step).tolist()) for step in range(STEPS)}
    places = [row for step in range(STEPS) for row in order.batch(step).tolist()]
    epochs = len(places) // len(data)
    assert epochs > 1
    assert set(Counter(places[: epochs * len(data)]).values()) == {epochs}


def test_the_number_of_nodes_falls_rises_and_falls_and_nothing_is_lost_when_it_rises(folder: Path) -> None:
    found = records(folder, "elastic")
    sizes = dict(sorted({(r["start"], r["ranks"]) for r in found}))
    changes = [start for start in sizes if sizes.get(start - 1) != sizes[start]]
    assert [sizes[start] for start in changes] == [2, 1, 2, 1]
    grown = changes[2]
    first = min(r["step"] for r in found if r["start"] == grown)
    assert first == 1 + max(r["step"] for r in found if r["start"] == grown - 1)
    assert first % SAVE_STEPS == 0


def test_the_result_is_that_of_a_training_that_lost_nothing(folder: Path) -> None:
    elastic = result(folder, "elastic")
    assert (elastic.steps, elastic.nodes) == (STEPS, 1)
    assert elastic.restarts >= 3
    assert_as_plain(folder, "elastic")


def test_a_rank_that_dies_while_it_loads_trains_writes_a_checkpoint_or_exports_costs_a_restart_and_nothing_else(
    folder: Path,
) -> None:
    assert {path.name for path in (folder / ROWS).glob("*-died-*")} == {f"phases-died-{phase}" for phase in DEATHS}
    found = result(folder, "phases")
    assert (found.steps, found.world_size) == (STEPS, 2)
    assert found.restarts == len(DEATHS) - 1  # a rank that dies while it loads has not started training
    assert_as_plain(folder, "phases")
    assert not list((folder / "volumes" / "claim" / "runs" / "phases").glob("step-*"))


def assert_as_plain(folder: Path, name: str) -> None:
    """The model is that of a training without any failure on one worker, but for the order of sums in float32."""
    plain = result(folder, "plain")
    assert (plain.steps, plain.restarts) == (STEPS, 0)
    one, other = weights(folder, name), weights(folder, "plain")
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[weight], other[weight], rtol=1e-3, atol=1e-5) for weight in one)


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The weights of the version, of all its files: each rank that exports writes its own."""
    files = (folder / "volumes" / "claim" / "versions" / name).rglob("*.safetensors")
    return {weight: tensor for path in files for weight, tensor in load_file(path).items()}
