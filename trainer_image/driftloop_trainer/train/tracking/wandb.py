"""A run in Weights & Biases; without a key an offline run in the folder of the run, for `wandb sync`."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from driftloop_trainer.train.tracking.mirror import Mirror
from driftloop_trainer.train.tracking.tracker import Ending, Row, Training

_PUSH = 60.0  # seconds between copies of an offline run to a bucket
_TIMEOUT = 30  # seconds until the server must have answered


class WandB:
    """A run of the project `training.experiment`. WANDB_* in the environment has the key and the server."""

    name = "Weights & Biases"

    def __init__(
        self, training: Training, uri: str, scratch: Path, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._training = training
        self._online = "WANDB_API_KEY" in environment
        self._mirror = Mirror(uri, scratch)
        self._folder = scratch if self._online else self._mirror.folder
        self._run: Any = None
        self._pushed = time.monotonic()

    def open(self) -> None:
        """Begin the run, or continue it by the UID of the job."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to the maker of wandb
        import wandb  # an extra of the image

        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._training.experiment,
            name=self._training.name,
            id=self._training.uid,
            resume="allow" if self._online else None,
            config=self._training.settings | self._training.tags,
            dir=str(self._folder),
            mode="online" if self._online else "offline",
            settings=wandb.Settings(
                console="off", init_timeout=_TIMEOUT, x_disable_stats=True, silent=True, disable_git=True
            ),
        )

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows. wandb leaves out steps before its last one."""
        for row in rows:
            self._run.log(dict(row.values) | {"_timestamp": row.time}, step=row.step)
        if not self._online and time.monotonic() - self._pushed > _PUSH:
            self._pushed = time.monotonic()
            self._mirror.push()

    def close(self, ending: Ending | None) -> None:
        """End the run: wandb shows one that is left open as crashed, until it goes on."""
        import wandb

        self._run.finish(exit_code=0 if ending == "FINISHED" else 1)
        if not self._online:
            # Only then is the file complete: `finish` does not wait for the process that writes it (not reported).
            wandb.teardown()
            self._mirror.push()
