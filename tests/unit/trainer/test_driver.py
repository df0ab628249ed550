from pathlib import Path
from typing import Any

import pytest

from driftloop.api.finetunejob import NewModel
from driftloop.contract.manifest import Manifest, ManifestError
from driftloop.contract.storage import StorageError
from driftloop.contract.task import TrainTask
from driftloop_trainer.failure import StageFailure
from driftloop_trainer.prepare.newmodel import new_config, save_new_model
from driftloop_trainer.train.assignment import Outcome
from driftloop_trainer.train.card import model_card
from driftloop_trainer.train.driver import check_inputs, to_result
from unit.trainer.conftest import ARCHITECTURE

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
    with pytest.raises(StageFailure, match=r"NonFiniteLoss: loss nan.*learningRate") as failure:
        to_result(task(), Outcome(error="loss nan, gradient norm nan"))
    assert failure.value.exit_code == 78


def test_the_result_tells_what_a_resumed_run_did() -> None:
    outcome = Outcome(DIGEST, loss=0.5, tokens_per_second=10.0, seconds=2.0, first_step=4, restarts=1)
    result = to_result(task(), outcome)
    assert (result.resumed_from_step, result.restarts, result.world_size, result.steps) == (4, 1, 2, 10)


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


def test_the_card_names_where_the_model_came_from() -> None:
    card = model_card(task(), {"final loss": "0.5000"})
    assert card.startswith("---\nlibrary_name: transformers\n")
    for fact in ("support-1", DIGEST, "0.5000", "job (uid)"):
        assert fact in card
