import pickle
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from driftloop.api.finetunejob import NewModel
from driftloop.contract.manifest import Manifest, ManifestError
from driftloop.contract.result import TrainResult, ValidationResult, decode, encode
from driftloop.contract.task import TrainTask
from driftloop.contract.uris import join
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import StorageError, publish
from driftloop_trainer.dataset import FILE, write_dataset
from driftloop_trainer.folders import finished
from driftloop_trainer.prepare.newmodel import new_config, save_new_model
from driftloop_trainer.train.assignment import Outcome
from driftloop_trainer.train.cluster.driver import check_inputs, check_resumed, settle, to_result, trained_weights
from driftloop_trainer.train.localdata import local_data
from driftloop_trainer.train.run import Run, Superseded
from driftloop_trainer.train.validation import Validated
from driftloop_trainer.train.worker.card import model_card
from driftloop_trainer.train.worker.skips import Skips, diverged
from unit.trainer.conftest import ARCHITECTURE, taken_over

DIGEST = "sha256:" + "0" * 64


def task(**fields: Any) -> TrainTask:
    document = {
        "job": "job",
        "jobUid": "uid",
        "family": "support",
        "model": {"uri": "pvc://claim/model"},
        "dataUri": "pvc://claim/data",
        "dataDigest": DIGEST,
        "training": {},
        "nodes": 2,
        "workersPerNode": 1,
        "gpusPerNode": 0,
        "gradientAccumulationSteps": 1,
        "perDeviceTrainBatchSize": 8,
        "totalSteps": 10,
        "head": "job-0.job",
        "startupTimeoutSeconds": 60,
        "backoffLimit": 3,
        "attempt": 0,
        "runs": "pvc://claim/runs/uid",
        "output": "pvc://claim/versions/uid",
        "lineage": {"parent": "support-1", "baseDigest": DIGEST},
    }
    return TrainTask.model_validate(document | fields)


def test_a_lost_loss_is_wrong_input_with_what_to_change() -> None:
    failure = pickle.loads(pickle.dumps(diverged(Skips(3, 3), "loss nan", ["line 2"])))  # as it comes from a worker
    with pytest.raises(StageFailure, match=r"NonFiniteLoss: loss nan.*learningRate") as ended:
        to_result(task(), Outcome(failure=failure))
    assert ended.value.exit_code == 78


def test_the_result_tells_what_a_resumed_run_did() -> None:
    outcome = Outcome(
        "pvc://claim/versions/uid/0000-a",
        DIGEST,
        loss=0.5,
        tokens_per_second=10.0,
        mfu=0.41234567,
        seconds=2.0,
        first_step=4,
        restarts=1,
        skipped=2,
        steps=10,
    )
    result = to_result(task(), outcome)
    assert (result.uri, result.digest) == ("pvc://claim/versions/uid/0000-a", DIGEST)
    assert (result.resumed_from_step, result.restarts, result.world_size, result.steps) == (4, 1, 2, 10)
    assert (result.skipped_steps, result.mfu) == (2, 0.4123)
    assert result.validation is None


def test_the_result_of_a_run_that_stopped_early_has_its_steps_and_whose_weights_they_are() -> None:
    validated = Validated().after(2, 1.0).after(4, 1.5).after(6, float("nan"))
    outcome = Outcome("pvc://claim/versions/uid/0000-a", DIGEST, steps=6, validated=validated, exported_step=2)
    result = decode(encode(to_result(task(), outcome)))
    assert isinstance(result, TrainResult)
    assert (result.steps, result.total_steps) == (6, 10)
    assert result.validation == ValidationResult(loss=None, best_loss=1.0, best_step=2, exported_step=2)


def failed_run(steps: int, **fields: Any) -> Run:
    """The run of a failed job with a checkpoint."""
    run = Run("pvc://claim/runs/failed", "0000-a")
    run.take_over()
    run.describe(trained_weights(task(**fields)))
    run.complete(run.begin(steps), keep=2)
    return run


def resuming(**fields: Any) -> TrainTask:
    return task(resumeFrom="pvc://claim/runs/failed", **fields)


def test_a_job_resumes_from_a_checkpoint_of_the_same_model(volume: Path) -> None:
    failed_run(10)
    check_resumed(resuming(training={"learningRate": 1e-6}), taken_over("0000-b"))


@pytest.mark.parametrize(
    ("steps", "fields", "problem"),
    [
        (11, {}, "is of step 11, but this job has only 10 steps"),
        (4, {"training": {"adapter": {"type": "lora"}}}, "another adapter"),
        (4, {"model": {"uri": "pvc://claim/other"}}, "another base model"),
        (4, {"lineage": {"tokenizerDigest": DIGEST}}, "another tokenizer"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_what_differs(
    volume: Path, steps: int, fields: dict[str, Any], problem: str
) -> None:
    failed_run(steps)
    with pytest.raises(StageFailure, match=f"CheckpointMismatch: .*{problem}") as ended:
        check_resumed(resuming(**fields), taken_over("0000-b"))
    assert ended.value.exit_code == 78


HUB, COMMIT = "hf://org/model", "0a" * 20


@pytest.mark.parametrize(
    ("recorded", "problem"),
    [
        (f"{HUB}@{COMMIT}", None),
        (HUB, None),  # by a release that recorded the branch
        (f"{HUB}@main", None),
        (f"{HUB}@{'0b' * 20}", f"another base model: .*its base model was {HUB}@{'0b' * 20}"),
        ("hf://org/other", "another base model"),
    ],
)
def test_a_checkpoint_fits_a_model_of_the_same_commit(volume: Path, recorded: str, problem: str | None) -> None:
    failed_run(4, model={"uri": recorded})
    refusal = pytest.raises(StageFailure, match=problem) if problem else nullcontext()
    with refusal:
        check_resumed(resuming(model={"uri": f"{HUB}@{COMMIT}"}), taken_over("0000-b"))


CONTENT = {"uri": "pvc://claim/model", "content": DIGEST}


@pytest.mark.parametrize(
    ("recorded", "problem"),
    [
        (CONTENT, None),
        ({"uri": "pvc://claim/model"}, None),  # by a release that did not read the content of such a folder
        ({"uri": "pvc://claim/other"}, "another base model"),
        (CONTENT | {"content": "sha256:" + "1" * 64}, "another base model"),
    ],
)
def test_a_checkpoint_fits_a_model_of_the_same_content(
    volume: Path, recorded: dict[str, str], problem: str | None
) -> None:
    failed_run(4, model=recorded)
    refusal = pytest.raises(StageFailure, match=problem) if problem else nullcontext()
    with refusal:
        check_resumed(resuming(model=CONTENT), taken_over("0000-b"))


def test_a_job_that_left_no_checkpoint_is_not_resumed_but_a_run_with_its_own_needs_none(volume: Path) -> None:
    run = taken_over("0000-b")
    with pytest.raises(StageFailure, match="left no checkpoint"):
        check_resumed(resuming(), run)
    run.complete(run.begin(2), keep=2)
    check_resumed(resuming(), run)


def trained(run: Run, text: str, volume: Path) -> TrainResult:
    """What a driver has when its workers have exported."""
    output = join(task().output, run.token)
    folder = volume.parent.parent / f"model-{run.token}"
    folder.mkdir()
    (folder / "weights").write_text(text)
    return to_result(task(), Outcome(output, publish(folder, output).digest))


def test_a_driver_that_was_cut_off_before_it_settled_leaves_no_trace_in_the_version(
    volume: Path, tmp_path: Path
) -> None:
    old = taken_over("0000-a")
    lost = trained(old, "of the old driver", volume)
    new = taken_over("0000-b")
    new.complete(new.begin(3), keep=2)
    with pytest.raises(Superseded) as ended:
        settle(task(), old, lost)
    assert ended.value.exit_code == 75
    assert new.complete_checkpoints()
    assert finished(task().output, TrainResult, tmp_path) is None
    mine = settle(task(), new, trained(new, "of the new driver", volume))
    assert mine.uri.endswith("0000-b")
    assert finished(task().output, TrainResult, tmp_path) == mine
    assert not new.complete_checkpoints()


def test_the_first_to_record_has_trained_the_model_and_both_say_so(volume: Path, tmp_path: Path) -> None:
    old = taken_over("0000-a")
    first = settle(task(), old, trained(old, "one", volume))
    new = taken_over("0000-b")
    assert settle(task(), new, trained(new, "other", volume)) == first
    assert finished(task().output, TrainResult, tmp_path) == first


def test_inputs_are_checked_before_any_worker_starts(volume: Path, tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(StorageError, match="pvc://claim/model: no such folder"):
        check_inputs(task(), tmp_path)
    save_new_model(new_config(NewModel(architecture=ARCHITECTURE), tokenizer), tokenizer, 0, volume / "model")
    with pytest.raises(StorageError, match="pvc://claim/data: no such folder"):
        check_inputs(task(), tmp_path)
    (volume / "data").mkdir()
    manifest = Manifest.of(volume / "data")
    manifest.write(volume / "data")
    with pytest.raises(ManifestError, match="expected sha256:0000"):
        check_inputs(task(), tmp_path)
    check_inputs(task(dataDigest=manifest.digest), tmp_path)


def test_the_driver_leaves_the_rows_to_the_workers_of_its_pod(volume: Path, tmp_path: Path, tokenizer: Any) -> None:
    save_new_model(new_config(NewModel(architecture=ARCHITECTURE), tokenizer), tokenizer, 0, volume / "model")
    (volume / "data").mkdir()
    write_dataset(volume / "data", [[5, 6]], [[5, 6]], [[2]])
    manifest = Manifest.of(volume / "data")
    manifest.write(volume / "data")
    uri = f"file://{volume}/data"
    check_inputs(task(dataUri=uri, dataDigest=manifest.digest), tmp_path / "scratch")
    shutil.rmtree(volume / "data")
    assert local_data(uri, manifest.digest).dataset(FILE).ids(0).tolist() == [5, 6]
    assert not list((tmp_path / "scratch").glob("**/*.parquet"))


def test_the_card_names_where_the_model_came_from() -> None:
    base = f"hf://team/base@{'a' * 40}"
    card = model_card(task(model={"uri": base}), {"final loss": "0.5000"})
    assert card.startswith("---\nlibrary_name: transformers\n")
    for fact in ("support-1", DIGEST, "0.5000", "job (uid)", base):
        assert fact in card


def test_the_card_of_a_model_trained_on_pairs_says_so() -> None:
    card = model_card(task(training={"method": "dpo", "beta": 0.2}), {})
    assert "| loss on | pairs of answers, beta 0.2 |" in card
