"""What driver and workers hand each other. Imports neither Ray nor torch.

Ray Train's controller reads both, and the driver too: with the worker's modules they waited for seconds at either end
of a training for what only workers need.
"""

import os
from dataclasses import dataclass
from typing import Any

from driftloop.contract.heavy import loading
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


def take_up(config: dict[str, Any]) -> Any:
    """Ray Train's training function, run in each worker: returns the Outcome (Ray's types know of no answer)."""
    # Blocks that grow instead of blocks of many sizes: without it a GPU ran out of memory with 0.9 of it allocated.
    # Read when torch first takes memory: https://docs.pytorch.org/docs/stable/notes/cuda.html
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with loading():
        from driftloop_trainer.train.worker import work  # torch and its kin

    return work(config[ASSIGNMENT])
