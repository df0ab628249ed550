"""What driver and workers hand each other."""

from dataclasses import dataclass
from typing import Any

from driftloop.contract.task import TrainTask
from driftloop.podlib.ending import StageFailure

ASSIGNMENT = "assignment"  # Ray Train passes a dict


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the driver hands every worker. `token` is the driver's (see run.py), `board` shows progress."""

    task: TrainTask
    token: str
    board: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended. `uri` and `digest` are those of the model's folder.

    `failure`: why there is no model. It is returned, as Ray would start workers that raise it again.
    """

    uri: str = ""
    digest: str = ""
    loss: float = 0.0
    tokens_per_second: float = 0.0
    seconds: float = 0.0
    first_step: int = 0
    restarts: int = 0
    failure: StageFailure | None = None
