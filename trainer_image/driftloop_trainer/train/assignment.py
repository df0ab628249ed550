"""What the driver sends to the workers, and what they return."""

from dataclasses import dataclass, field
from typing import Any

from driftloop.contract.manifest import ManifestEntry
from driftloop.contract.task import TrainTask
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.validation import NONE, Validated

ASSIGNMENT = "assignment"  # a key, because Ray Train passes a dict


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the driver sends to every worker. `token` is that of the driver (see run.py). `board` shows the progress.

    `base_files`: the base model's files with its weights, if the adapter is exported alone.
    """

    task: TrainTask
    token: str
    board: Any
    base_files: tuple[ManifestEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended. `uri` and `digest` are those of the model's folder, `exported_step` is that of its weights.

    `resized`: the workers ended after a checkpoint, as there are more nodes.
    `failure`: why there is no model. Workers return it, because Ray would start workers that raise it again.
    """

    uri: str = ""
    digest: str = ""
    loss: float = 0.0
    tokens_per_second: float = 0.0
    mfu: float | None = None
    seconds: float = 0.0
    reward: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)
    first_step: int = 0
    restarts: int = 0
    skipped: int = 0
    steps: int = 0
    validated: Validated = NONE
    exported_step: int = 0
    resized: bool = False
    failure: StageFailure | None = None
