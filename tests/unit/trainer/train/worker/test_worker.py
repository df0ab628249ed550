import json
import pickle
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from driftloop.api.modelversion import Lineage
from driftloop.contract.names import EXIT_BAD_INPUT, TERMINATION_ENV
from driftloop.contract.phase import BesideSteps, told
from driftloop.contract.task import TrainTask, encode
from driftloop_trainer.modelfiles import tokenizer_digest
from driftloop_trainer.train.assignment import Assignment, Outcome
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import Run
from driftloop_trainer.train.worker import worker
from driftloop_trainer.train.worker.export import export
from driftloop_trainer.train.worker.memory import OutOfMemory
from unit.trainer import templates
from unit.trainer.conftest import taken_over
from unit.trainer.prepare.test_folder import prepared
from unit.trainer.ranks import run_script
from unit.trainer.train.cluster.test_driver import task
from unit.trainer.train.worker import test_export

pytestmark = pytest.mark.usefixtures("one_rank")
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.10 GiB is free."
)


def test_a_gpu_without_memory_ends_the_rank_with_its_own_reason() -> None:
    with (
        patch.object(worker, "_work", side_effect=torch.OutOfMemoryError(CUDA)),  # there is no GPU here
        pytest.raises(OutOfMemory) as ended,
    ):
        worker.work(Assignment(task(), "0000-a", board=None), lambda _: None)
    failure = pickle.loads(pickle.dumps(ended.value))  # on its way to the driver
    assert (failure.reason, failure.exit_code) == ("OutOfMemory", EXIT_BAD_INPUT)
    assert failure.message == f"rank 0: {CUDA}"


@pytest.fixture
def job(volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainTask:
    """A training of two steps in a pod, whose kubelet has made the file of the termination message."""
    (tmp_path / "termination").touch()
    monkeypatch.setenv(TERMINATION_ENV, str(tmp_path / "termination"))
    prepared(volume, test_export.ROWS, templates.CHATML)
    return test_export.task(volume).model_copy(update={"total_steps": 2})


def run(job: TrainTask, token: str = "0000-a", report: Any = lambda _: None) -> Outcome:
    return worker.work(Assignment(job, taken_over(token).token, board=None), report)


def test_a_worker_tells_what_it_does_beside_its_steps(job: TrainTask) -> None:
    seen: list[tuple[str, BesideSteps | None]] = []
    load = worker._load

    def loading(*arguments: Any) -> Any:
        seen.append(("load", told()))
        return load(*arguments)

    def exporting(*arguments: Any) -> str:
        seen.append(("export", told()))
        return export(*arguments)

    with patch.object(worker, "_load", loading), patch.object(worker, "export", exporting):
        run(job, report=lambda progress: seen.append((f"step {progress.step}", told())))
    assert seen == [("load", "loading"), ("step 1", None), ("step 2", None), ("export", "export")]


@pytest.mark.timeout(600)
def test_a_pod_tells_its_loading_until_the_last_of_its_ranks_has_loaded(job: TrainTask, volume: Path) -> None:
    """The rank that lacks memory may be the last one: then fewer rows would not help, and steps are not to blame."""
    volumes = volume.parent
    (volumes / "task.json").write_text(encode(job))
    taken_over("0000-a")
    run_script("phase_run.py", volumes)
    assert json.loads((volumes / "slow-rank.json").read_text()) == ["loading", "export"]


def test_a_pod_whose_ranks_start_again_does_not_tell_the_export_in_which_they_failed(job: TrainTask) -> None:
    run(job)
    assert told() == "export"
    seen: list[BesideSteps | None] = []
    load = worker._load

    def loading(*arguments: Any) -> Any:
        seen.append(told())
        return load(*arguments)

    with patch.object(worker, "_load", loading):
        run(job, token="0000-b")
    assert seen == [None]


@pytest.mark.parametrize(("where", "phase"), [("_load", "loading"), ("_loop", None), ("export", "export")])
def test_a_gpu_without_memory_is_known_with_what_it_could_not_hold(job: TrainTask, where: str, phase: str) -> None:
    with (
        patch.object(worker, where, side_effect=torch.OutOfMemoryError(CUDA)),
        pytest.raises(OutOfMemory) as ended,
    ):
        run(job)
    assert pickle.loads(pickle.dumps(ended.value)).phase == phase


def test_a_model_that_was_loaded_before_does_not_lack_memory_for_its_loading(job: TrainTask) -> None:
    Run(job.runs, "0000-a").record_start(0, world_size=1, nodes=1)
    with (
        patch.object(worker, "_load", side_effect=torch.OutOfMemoryError(CUDA)),
        pytest.raises(OutOfMemory) as ended,
    ):
        run(job, token="0000-b")
    assert ended.value.phase is None


def test_a_tokenizer_that_changes_before_the_export_is_not_exported(job: TrainTask, volume: Path) -> None:
    files = {"tokenizerDigest": tokenizer_digest(volume / "base", job.training)}
    job = job.model_copy(update={"lineage": Lineage.model_validate(files)})

    def change(progress: Progress) -> None:
        (volume / "base" / "added_tokens.json").write_text("{}")

    failure = run(job, report=change).failure
    assert failure is not None
    assert (failure.reason, failure.exit_code) == ("DigestMismatch", EXIT_BAD_INPUT)
    assert "tokenizer or chat template has changed" in failure.message


def test_float32_stays_true_float32_where_bfloat16_is_not_wanted(job: TrainTask) -> None:
    """TF32 has 10 bits of a fraction. torch's defaults keep it off, and no library in the worker may change them."""
    run(job.model_copy(update={"training": job.training.model_copy(update={"bf16": False})}))
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cuda.matmul.allow_tf32 is False


def test_the_logits_are_limited_as_the_task_says(job: TrainTask) -> None:
    found: list[int] = []
    with patch.object(worker, "limit_logits", lambda _model, most: found.append(most)):
        run(job.model_copy(update={"logits_bytes": 64 << 20}))
    assert found == [64 << 20]
