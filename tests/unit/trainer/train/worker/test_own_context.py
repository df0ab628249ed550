from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.manifest import Manifest
from driftloop.contract.task import TrainTask
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.modelfiles import tokenizer_digest
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import Run
from driftloop_trainer.train.shutdown import Worker, at_work
from driftloop_trainer.train.tracking.reporting import Reporting
from driftloop_trainer.train.worker.own_context import Context
from unit.trainer import templates
from unit.trainer.conftest import model_and_optimizer, taken_over
from unit.trainer.prepare.test_folder import folder, prepared
from unit.trainer.train.worker.test_export import ROWS, task_document


class Pod:
    """A training pod with one worker, which is at work."""

    def __init__(self, volume: Path, shutdown: Path) -> None:
        self.volume, self.shutdown = volume, shutdown
        self.reported: list[Progress] = []

    def context(self, run: Run, worker: Worker, **training: Any) -> Context:
        lineage = {"tokenizerDigest": tokenizer_digest(self.volume / "base", TrainingSpec())}
        digest = Manifest.read(folder(self.volume)).digest
        fields = {"dataDigest": digest, "training": training, "lineage": lineage}
        task = TrainTask.model_validate(task_document() | fields)
        return Context(task, run, torch.device("cpu"), worker, self.reported.append, Reporting())


@pytest.fixture
def pod(volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pod]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    prepared(volume, ROWS, templates.CHATML)
    (tmp_path / "shutdown").mkdir()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield Pod(volume, tmp_path / "shutdown")
    dist.destroy_process_group()


def test_it_has_the_rows_the_model_and_empty_folders(pod: Pod) -> None:
    with at_work(pod.shutdown) as worker:
        context = pod.context(taken_over("0000-a"), worker, learningRate=0.5)
    rows = context.sequences()
    assert len(rows) == len(ROWS)
    for row in rows:
        pairs = zip(row["input_ids"], row["completion_mask"], strict=True)
        assert row["labels"] == [token if kept else IGNORED for token, kept in pairs]
        assert 0 < sum(row["completion_mask"]) < len(row["input_ids"])
    assert (context.model / "model.safetensors").exists()
    assert (context.training.learning_rate, context.training.per_device_train_batch_size) == (0.5, 8)
    assert list(context.scratch.iterdir()) == list(context.output.iterdir()) == []


def test_another_tokenizer_than_that_of_the_rows_is_refused(pod: Pod) -> None:
    with at_work(pod.shutdown) as worker, pytest.raises(StageFailure, match=r"DigestMismatch: .*its tokenizer"):
        pod.context(taken_over("0000-a"), worker, chatTemplate="{{ messages }}")


def test_weights_and_curve_are_those_of_the_last_checkpoint(pod: Pod) -> None:
    model, optimizer = model_and_optimizer()
    with at_work(pod.shutdown) as worker:
        context = pod.context(taken_over("0000-a"), worker)
        assert context.resume(model, optimizer) == 0
        for step in (1, 2, 3):
            context.report(step, 1 / step, tokens=10, margin=0.5)
            if step == 2:
                context.save(step, model, optimizer)
        context.trained()
        other, other_optimizer = model_and_optimizer()
        resumed = pod.context(taken_over("0001-b"), worker)
        assert resumed.resume(other, other_optimizer) == 2
    assert torch.equal(other.weight, model.weight)  # type: ignore[arg-type]
    assert [step for step, _ in resumed.curve.last(9)] == [1, 2]
    assert resumed.curve.last(1)[0][1].keys() == {"loss", "margin", "tokens_per_second"}
    assert [progress.step for progress in pod.reported] == [1, 2, 3]
    assert resumed.restarts == 1


def test_a_folder_comes_back_as_it_was_and_only_the_last_ones_stay(pod: Pod) -> None:
    with at_work(pod.shutdown) as worker:
        context = pod.context(taken_over("0000-a"), worker, saveTotalLimit=1)
        assert context.last_folder() is None
        for step in (1, 2):
            (context.scratch / "sub").mkdir(exist_ok=True)
            (context.scratch / "sub" / "state").write_text(f"after {step}")
            context.report(step, 1.0)
            context.save_folder(step, context.scratch)
        found = pod.context(taken_over("0001-b"), worker).last_folder()
    assert found is not None
    step, last = found
    assert (step, (last / "sub" / "state").read_text()) == (2, "after 2")
    assert len(list((pod.volume / "runs" / "uid").glob("step-*"))) == 1


def test_a_pod_that_has_to_end_waits_for_the_next_checkpoint_and_no_longer(pod: Pod) -> None:
    model, optimizer = model_and_optimizer()
    with at_work(pod.shutdown) as worker:
        context = pod.context(taken_over("0000-a"), worker)
        context.resume(model, optimizer)
        assert not context.must_stop()
        (pod.shutdown / "stop").touch()
        assert context.must_stop()
        assert worker.file.exists()
        context.save(1, model, optimizer)
        assert not worker.file.exists()
        assert [checkpoint.step for checkpoint in Run(context._task.runs, "0000-a").complete_checkpoints()] == [1]
        assert not context.must_stop()
        context.trained()
