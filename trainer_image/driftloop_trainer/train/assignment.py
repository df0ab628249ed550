"""What driver and workers hand each other."""

from dataclasses import dataclass
from typing import Any

from driftloop.contract.task import TrainTask

ASSIGNMENT = "assignment"  # Ray Train passes a dict


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the driver hands every worker. `token` is the driver's (see run.py), `board` shows progress."""

    task: TrainTask
    token: str
    board: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended. `error` is set when starting again cannot help, `superseded` when another driver goes on.

    `uri`, `digest`: the model's folder.
    """

    uri: str = ""
    digest: str = ""
    loss: float = 0.0
    tokens_per_second: float = 0.0
    seconds: float = 0.0
    first_step: int = 0
    restarts: int = 0
    error: str | None = None
    superseded: bool = False
