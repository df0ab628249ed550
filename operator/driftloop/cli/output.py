"""Prints progress to standard error, and the result to standard output."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TextIO, assert_never

from driftloop.cli.states import Awaiting, Done, Going, Over, State, Stuck

REPEAT_SECONDS = 60.0  # a log gets a line at least this often, so that CI sees that the command is alive
BAR_WIDTH = 20
MAX_LINE = 118  # characters of a line that is overwritten


def print_result(output: str, text: str, document: dict[str, Any]) -> None:
    """Print the result of a command."""
    print(json.dumps(document, indent=2) if output == "json" else text)


@dataclass
class Progress:
    """Shows the states of an object: one line that is overwritten on a terminal, else a line per change."""

    title: str
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = monotonic
    last: str = ""  # the state that was shown last
    _shown: float = 0.0

    def show(self, state: State) -> None:
        """Show a state, if it is new or was shown long ago."""
        line, now = state_line(state), self.clock()
        if line == self.last and now - self._shown < REPEAT_SECONDS:
            return
        if self.stream.isatty():
            self.stream.write(f"\r\033[K{f'{self.title}: {line}'[:MAX_LINE]}")
        else:
            self.stream.write(f"{self.title}: {line}\n")
        self.stream.flush()
        self.last, self._shown = line, now

    def end(self) -> None:
        """End the line that is overwritten."""
        if self.last and self.stream.isatty():
            self.stream.write("\n")


def state_line(state: State) -> str:
    """A state in one line.

    >>> state_line(Going("Training: step 50 of 200", 25, "3m"))
    'Training: step 50 of 200 [#####...............] 25 %, 3m left'
    """
    match state:
        case Going(message, percent, eta):
            left = f", {eta} left" if eta else ""
            return message if percent is None else f"{message} [{_bar(percent)}] {percent} %{left}"
        case Done(message) | Over(message) | Awaiting(message):
            return message
        case Stuck(message):
            return f"stalled: {message}"
        case never:
            assert_never(never)


def _bar(percent: int) -> str:
    done = BAR_WIDTH * min(100, max(0, percent)) // 100
    return "#" * done + "." * (BAR_WIDTH - done)
