"""The log of a container: its own lines and the output of libraries and commands, in one format.

Output of native code, such as a CUDA crash, is not converted.
"""

import io
import logging
import sys
import threading
from typing import IO

from driftloop.contract import logs

_printed = logging.getLogger("printed")


def setup() -> None:
    """Log to standard error, including printed output. Users' questions and the model's answers are never logged."""
    logs.configure()
    sys.stdout = sys.stderr = Lines(sys.stderr)


class Lines(io.TextIOBase):
    """A stream whose lines are logged. A progress bar is logged once, when its line ends."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._thread = _Thread()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """The descriptor of the underlying stream: some libraries pass it to other processes."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        thread = self._thread
        if thread.logging:  # if logging can't write a line, it prints an error: don't log that again
            return len(text)
        *lines, rest = (thread.rest + text).split("\n")
        thread.rest = rest[rest.rstrip("\r").rfind("\r") + 1 :]  # a progress bar repeats this many times
        thread.logging = True
        try:
            _log(lines)
        finally:
            thread.logging = False
        return len(text)


class _Thread(threading.local):
    """The unfinished line of a thread, and whether the thread is logging now."""

    rest = ""
    logging = False


def relay(stream: IO[bytes]) -> None:
    """Log the output of a command until it ends."""
    for line in stream:
        _log([line.decode(errors="replace").rstrip("\n")])


def _log(lines: list[str]) -> None:
    for line in map(_shown, lines):
        if line.strip():
            _printed.info("%s", line.rstrip())


def _shown(line: str) -> str:
    """The text that a terminal shows for a line with carriage returns."""
    return line.rstrip("\r").rsplit("\r", 1)[-1]
