"""Shows how far the detector has come."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from driftloop.api.inferenceservice import DriftStatus
from driftloop.cli.output import Progress
from driftloop.cli.states import Going

TERMINAL_SECONDS, LOG_SECONDS = 0.2, 30.0  # between two lines; a log file has thousands of windows


@dataclass
class Course:
    """A line that is overwritten on a terminal. Elsewhere a line now and then, and one when an alarm begins or ends."""

    progress: Progress = field(default_factory=lambda: Progress("detect"))
    clock: Callable[[], float] = monotonic
    _alarm: bool = False
    _shown: float = float("-inf")

    def show(self, status: DriftStatus) -> None:
        """Show the state after a window, if it is time."""
        pause = TERMINAL_SECONDS if self.progress.stream.isatty() else LOG_SECONDS
        if status.alarm == self._alarm and self.clock() - self._shown < pause:
            return
        self.progress.show(Going(f"{status.consumed_until}: {status.message}"))
        self._alarm, self._shown = status.alarm, self.clock()

    def end(self) -> None:
        """End the line that is overwritten."""
        self.progress.end()
