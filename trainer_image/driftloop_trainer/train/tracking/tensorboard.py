"""TensorBoard's event files in the folder of the run."""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driftloop_trainer.train.tracking.mirror import Mirror
from driftloop_trainer.train.tracking.tracker import Ending, Row, Training

_PUSH = 60.0  # seconds between copies of the file to a bucket


class TensorBoard:
    """An event file per start of the training. Each tells that it replaces the steps from its first one on."""

    name = "TensorBoard"

    def __init__(self, training: Training, uri: str, scratch: Path, first_step: int) -> None:
        self._training = training
        self._mirror = Mirror(uri, scratch)
        self._first = first_step
        self._writer: Any = None
        self._pushed = time.monotonic()

    def open(self) -> None:
        """Begin a file."""
        from tensorboardX import SummaryWriter  # Ray Train needs it too

        if self._writer is None:
            self._mirror.folder.mkdir(parents=True, exist_ok=True)
            # The name of the file has only the second and the host's name, which another start may have too.
            name = f".{uuid.uuid4().hex[:8]}"
            folder = str(self._mirror.folder)
            self._writer = SummaryWriter(folder, purge_step=self._first, flush_secs=10, filename_suffix=name)
            settings = "\n".join(f"    {key}: {value}" for key, value in self._training.settings.items())
            self._writer.add_text("settings", settings, self._first)

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        for row in (row for row in rows if row.step >= self._first):  # the file of an earlier start has the others
            for key, value in row.values.items():
                self._writer.add_scalar(key, value, row.step, row.time)
        self._writer.flush()
        if time.monotonic() - self._pushed > _PUSH:
            self._pushed = time.monotonic()
            self._mirror.push()

    def close(self, ending: Ending | None) -> None:
        """End the file."""
        self._writer.close()
        self._mirror.push()
