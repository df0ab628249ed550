"""Which trackers a job reports to."""

from importlib.util import find_spec
from pathlib import Path
from typing import assert_never

from driftloop.api.finetunejob import TrackerName, TrainingSpec
from driftloop.contract.reasons import StageReason
from driftloop.contract.task import TrainTask
from driftloop.contract.uris import join
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.tracking.mlflow import MLflow
from driftloop_trainer.train.tracking.tensorboard import TensorBoard
from driftloop_trainer.train.tracking.tracker import Tracker, Training
from driftloop_trainer.train.tracking.wandb import WandB

SENT_AGAIN = 1000  # steps before a restart that are reported again: a tracker may not have got the last ones
_LIBRARIES: dict[TrackerName, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def check_trackers(training: TrainingSpec) -> None:
    """Check that the image has what the trackers need. Raises StageFailure."""
    for name in training.report_to:
        library = _LIBRARIES.get(name)
        if library and find_spec(library) is None:
            message = (
                f"training.reportTo: this trainer image has no {library}: build it with "
                f"--build-arg TRACKERS={library}, or remove {name}"
            )
            raise StageFailure(StageReason.TRACKER_MISSING, message)


def trackers_of(task: TrainTask, first_step: int, scratch: Path) -> list[Tracker]:
    """The trackers of a training that goes on after `first_step` steps."""
    training = described_training(task)
    made: list[Tracker] = []
    for name in task.training.report_to:
        match name:
            case "mlflow":
                made.append(MLflow(task.training.tracking.uri or "", training))
            case "tensorboard":
                made.append(TensorBoard(training, join(task.runs, name), scratch / name, first_step + 1))
            case "wandb":
                made.append(WandB(training, join(task.runs, name), scratch / name))
            case never:
                assert_never(never)
    return made


def described_training(task: TrainTask) -> Training:
    """What trackers show of a training. The settings have no secret: they are those of the job's spec."""
    fields = {key: value for key, value in task.training.dump().items() if not isinstance(value, dict | list)}
    settings = fields | {"adapter": task.training.adapter.type, "totalSteps": task.total_steps}
    tags = {"family": task.family, "job": task.job, "base digest": task.model.digest or "", "data": task.data_digest}
    return Training(
        uid=task.job_uid,
        name=task.job,
        experiment=task.training.tracking.experiment or task.family,
        settings={key: str(value) for key, value in settings.items()},
        tags={f"driftloop.{key.replace(' ', '.')}": value for key, value in tags.items() if value},
    )
