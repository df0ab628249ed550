"""The log of a container: what it logs, and what its libraries and commands print, in one form.

What native code writes by itself, such as a crash of CUDA's, stays as it is.
"""

import io
import logging
import sys
import threading
from typing import IO

from driftloop.contract import logs

_printed = logging.getLogger("printed")


def setup() -> None:
    """Log to standard error, and log what is printed too. What users ask a model, and its answers, is never logged."""
    logs.configure()
    sys.stdout = sys.stderr = Lines(sys.stderr)


class Lines(io.TextIOBase):
    """A stream whose lines are logged. A progress bar is logged as it is when its line ends."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._thread = _Thread()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """That of the stream which the log is written to: some libraries hand it on to other processes."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        thread = self._thread
        if thread.logging:  # logging complains of a line that it can't write, by printing
            return len(text)
        *lines, rest = (thread.rest + text).split("\n")
        thread.rest = rest[rest.rstrip("\r").rfind("\r") + 1 :]  # a progress bar is thousands of these
        thread.logging = True
        try:
            _log(lines)
        finally:
            thread.logging = False
        return len(text)


class _Thread(threading.local):
    """What a thread has printed without ending the line, and whether it is logging right now."""

    rest = ""
    logging = False


def relay(stream: IO[bytes]) -> None:
    """Log what a command prints, until it ends."""
    for line in stream:
        _log([line.decode(errors="replace").rstrip("\n")])


def _log(lines: list[str]) -> None:
    for line in map(_shown, lines):
        if line.strip():
            _printed.info("%s", line.rstrip())


def _shown(line: str) -> str:
    """What a terminal would show of a line in which a carriage return begins anew."""
    return line.rstrip("\r").rsplit("\r", 1)[-1]
