"""A whole job with its data, checkpoints and version in a bucket: the pods' own commands against a real S3 server."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.contract.names import DISK_ENV, VOLUMES_ENV
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import AnyResult, PrepareResult, StageError, TrainResult, decode
from driftloop.contract.task import FeedbackSource, ModelSource, PrepareTask, ServeTask, TrainTask, encode
from driftloop.controller.kinds.finetunejob import tasks
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.kinds.finetunejob.plan import TrainingPlan, plan
from driftloop.controller.kinds.finetunejob.stages import Stages
from driftloop.controller.kinds.finetunejob.start import HeldOut, Start
from driftloop.controller.vocabulary.plan import Settings
from testcluster.s3 import Server, server
from unit.trainer.conftest import ARCHITECTURE

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="a network and a PID namespace of its own need root"),
]

STAGE_SECONDS = 300
RAY_STARTS = 3
ROWS = [(f"question {number} about my card", f"answer {number % 7}") for number in range(120)]
SPEC = FineTuneJobSpec.model_validate(
    {
        "model": {"from": {"config": {"architecture": ARCHITECTURE, "tokenizer": {"vocabSize": 320}}}},
        "data": {
            "sources": [{"name": "rows", "uri": "s3://team/data/rows.csv"}],
            "feedback": {"service": "desk"},
            "steps": [{"type": "normalise"}],
        },
        "training": {
            "method": "pretrain",
            "trainBatchSize": 32,
            "maxSteps": 6,
            "saveSteps": 2,
            "maxLength": 32,
            "reportTo": ["tensorboard"],
        },
        "storage": "s3://team/work",
        "output": {"family": "desk"},
    }
)
OBSERVED = Observed({"metadata": {"name": "tune", "namespace": "team", "uid": "uid"}}, SPEC)


@dataclass(frozen=True)
class Pods:
    """Runs one stage as its pod would: the module, its task, the Secret's variables, no volume."""

    folder: Path
    s3: Server

    def run(self, module: str, task: PrepareTask | TrainTask | ServeTask) -> AnyResult | None:
        """The result of the stage, if any. Fails with its output if it ends badly.

        If Ray does not start, the stage is run again, as its Job would: Ray gives a node 30 s, too few on a busy
        machine, and no setting changes that (not reported).
        """
        for _ in range(RAY_STARTS - 1):
            code, output, result = self._run(module, task)
            if not (isinstance(result, StageError) and result.reason == StageReason.RAY_FAILED):
                break
        else:
            code, output, result = self._run(module, task)
        assert code == 0, output
        return result

    def _run(self, module: str, task: PrepareTask | TrainTask | ServeTask) -> tuple[int, str, AnyResult | None]:
        told, log = self.folder / "told", self.folder / f"{module}.log"
        told.unlink(missing_ok=True)
        environment = os.environ | self.s3.environment
        environment |= {
            "DRIFTLOOP_TASK": encode(task),
            "DRIFTLOOP_TERMINATION_LOG": str(told),
            VOLUMES_ENV: str(self.folder / "no-volumes"),
            DISK_ENV: str(self.folder),
            "RAY_TMPDIR": str(self.folder),
            "HOME": str(self.folder),  # where Ray would find a token of the user's
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        # Ray's ports are a pod's own, and all that it starts ends with it. The bucket's server comes along, on the same
        # folder: this loopback is another one.
        script = 'ip link set lo up; "$@" & shift $#; sleep 1; exec "$PYTHON" -m "$MODULE"'
        alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh"]
        with log.open("wb") as output:
            ended = subprocess.run(
                [*alone, *self.s3.command],
                env=environment | {"PYTHON": sys.executable, "MODULE": module},
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=STAGE_SECONDS,
                check=False,
            )
        result = decode(told.read_text()) if told.exists() else None
        return ended.returncode, log.read_text(errors="replace")[-4000:], result


@pytest.fixture
def pods() -> Iterator[Pods]:
    assert shutil.which("unshare"), "util-linux is needed: apt-get install util-linux"
    # A short path: Ray's sockets lie below it, and a socket's name holds 107 bytes.
    with tempfile.TemporaryDirectory(prefix="s3-") as name, server(Path(name) / "s3") as found:
        yield Pods(Path(name), found)


def test_data_corrections_checkpoints_and_version_live_in_a_bucket(pods: Pods) -> None:
    bucket = pods.s3.bucket("team")
    (bucket / "data").mkdir()
    (bucket / "data" / "rows.csv").write_text(rows())
    segment = bucket / "corrections" / "uid-desk" / "desk-1" / "pod-a" / "000000000000001.jsonl"
    segment.parent.mkdir(parents=True)
    segment.write_text(correction())

    feedback = FeedbackSource(uri="s3://team/corrections/uid-desk")
    start = Start(ModelSource(new=SPEC.model.from_.config), HeldOut("s3", 10), feedback=feedback)
    order = tasks.prepare_task(OBSERVED, start)
    prepared = pods.run("driftloop_trainer.prepare", order)
    assert isinstance(prepared, PrepareResult)
    assert prepared.uri == "s3://team/work/prepared/uid"
    assert prepared.feedback_rows == 1
    assert prepared.train_rows + prepared.held_out_rows == len(ROWS) + 1

    planned = plan(SPEC, prepared)
    assert isinstance(planned, TrainingPlan)
    left = tasks.Prepared(order, prepared)
    lineage = tasks.lineage(OBSERVED, left, "trainer")
    stages = Stages(OBSERVED, Settings("", ""), datetime.now(UTC), attempt=0)
    train = tasks.train_task(stages, left, planned, lineage)
    trained = pods.run("driftloop_trainer.train", train)
    assert isinstance(trained, TrainResult)
    assert trained.uri.startswith("s3://team/work/versions/uid/")
    assert trained.steps == 6
    assert not list((bucket / "work" / "runs" / "uid").glob("step-*"))  # checkpoints go with the end of the training
    assert len(list((bucket / "work" / "runs" / "uid" / "tensorboard").iterdir())) == 1
    curves = (bucket / trained.uri.removeprefix("s3://team/") / "curves.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curves] == ["step", "1", "2", "3", "4", "5", "6"]
    assert pods.run("driftloop_trainer.train", train) == trained  # the bucket remembers

    whole = fetched(pods, trained, ())
    adapter = an_adapter_on(pods, trained)
    assert not list((bucket / adapter.uri.removeprefix("s3://team/")).glob("model*.safetensors"))
    merged = fetched(pods, adapter, (trained.uri,))
    before, after = (load_file(folder / "model.safetensors") for folder in (whole, merged))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def an_adapter_on(pods: Pods, trained: TrainResult) -> TrainResult:
    """A version that is an adapter alone, by a job whose base is the other version."""
    adapting = SPEC.dump() | {"output": {"family": "desk", "mergeAdapter": False}}
    adapting["training"] |= {"method": "sft", "adapter": {"type": "lora", "r": 2}, "maxSteps": 2, "learningRate": 0.01}
    adapting["data"].pop("feedback")
    observed = Observed(
        {"metadata": {"name": "adapt", "namespace": "team", "uid": "adapter"}}, FineTuneJobSpec.model_validate(adapting)
    )
    order = tasks.prepare_task(observed, Start(ModelSource(uri=trained.uri, digest=trained.digest), HeldOut("s3", 10)))
    prepared = pods.run("driftloop_trainer.prepare", order)
    assert isinstance(prepared, PrepareResult)
    planned = plan(observed.spec, prepared)
    assert isinstance(planned, TrainingPlan)
    left = tasks.Prepared(order, prepared)
    assert left.bases == (trained.uri,)
    stages = Stages(observed, Settings("", ""), datetime.now(UTC), attempt=0)
    train = tasks.train_task(stages, left, planned, tasks.lineage(observed, left, "trainer"))
    adapter = pods.run("driftloop_trainer.train", train)
    assert isinstance(adapter, TrainResult)
    return adapter


def fetched(pods: Pods, trained: TrainResult, bases: tuple[str, ...]) -> Path:
    """The folder that an engine gets."""
    model = pods.folder / f"model-{len(bases)}"
    serve = ServeTask(
        namespace="team",
        service="desk",
        service_uid="uid-desk",
        family="desk",
        version="desk-1",
        revision="r1",
        artefact_uri=trained.uri,
        artefact_digest=trained.digest,
        artefact_bases=bases,
        model_dir=str(model),
    )
    assert pods.run("driftloop_server.fetch", serve) is None
    return model


def rows() -> str:
    out = io.StringIO()
    csv.writer(out).writerows([("prompt", "completion"), *ROWS])
    return out.getvalue()


def correction() -> str:
    record = {
        "id": "resp-1",
        "version": "desk-1",
        "prompt": "a question that nobody asked before",
        "completion": "answer 1",
        "rating": "correction",
        "correction": "answer 2",
        "user": "hashed",
        "created": datetime.now(UTC).isoformat(),
        "side": "train",
    }
    return json.dumps(record) + "\n"
