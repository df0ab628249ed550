from pathlib import Path
from typing import Any

import pytest

from driftloop.api.finetunejob import TrainingSpec
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.tracking import choice
from driftloop_trainer.train.tracking.choice import check_trackers, described_training, trackers_of
from unit.trainer.train.cluster.test_driver import task


def with_trackers(*names: str, **tracking: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"reportTo": names, "tracking": tracking})


def test_each_name_is_a_tracker(tmp_path: Path, volume: Path) -> None:
    spec = with_trackers("mlflow", "tensorboard", "wandb", uri="http://mlflow:5000")
    job = task().model_copy(update={"training": spec})
    assert [tracker.name for tracker in trackers_of(job, 0, tmp_path)] == ["MLflow", "TensorBoard", "Weights & Biases"]
    assert trackers_of(task(), 0, tmp_path) == []


def test_a_tracker_that_the_image_lacks_is_refused_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    check_trackers(with_trackers("mlflow", uri="http://mlflow:5000"))  # it needs no library
    with pytest.raises(StageFailure, match="--build-arg TRACKERS=wandb, or remove wandb") as refused:
        check_trackers(with_trackers("wandb"))
    assert refused.value.reason == "TrackerMissing"


def test_a_training_is_shown_under_its_family_or_the_experiment_that_is_set() -> None:
    job = task()
    assert described_training(job).experiment == job.family
    named = job.model_copy(update={"training": with_trackers("wandb", experiment="team", secret={"name": "keys"})})
    shown = described_training(named)
    assert shown.experiment == "team"
    assert shown.settings["method"] == "sft"
    assert "keys" not in str(shown)  # not even the name of the Secret
