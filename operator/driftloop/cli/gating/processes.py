"""Runs the processes of the pods on this machine. Their output is kept in part, and each is ended by its id."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, assert_never

from pydantic import ValidationError

from driftloop.contract import result as results
from driftloop.contract.logs import message_of
from driftloop.contract.names import TASK_ENV, TASK_FILE_ENV, TERMINATION_ENV, VOLUMES_ENV
from driftloop.contract.result import AnswerResult, AnyResult, EvaluateResult, PrepareResult, StageError, TrainResult
from driftloop.contract.task import AnyTask, encode

KEPT_LINES, LONGEST_LINE = 100, 8192  # of the output; a longer line is read in pieces
SHOWN = 8000  # characters of the output in an error
POLL_SECONDS = 0.1
STOP_SECONDS = 15.0  # from SIGTERM to SIGKILL
ENDING = (signal.SIGINT, signal.SIGTERM)

Listener = Callable[[str], None]


class NotJudged(Exception):
    """The model could not be judged. The message explains what to fix."""


@dataclass
class Process:
    """A running process of a pod."""

    name: str  # in messages
    popen: subprocess.Popen[bytes]
    termination: Path  # file with its result or error
    lines: deque[str]  # the end of its output
    reader: threading.Thread  # reads its output

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.popen.poll()

    @property
    def result(self) -> AnyResult | None:
        """What it reported; None if it reported nothing that can be read."""
        try:
            return results.decode(self.termination.read_text())
        except (OSError, ValidationError, UnicodeDecodeError):
            return None

    @property
    def failure(self) -> NotJudged:
        """Why it ended: the error that it reported, else the end of its output."""
        match self.result:
            case StageError(reason=reason, message=message):
                return NotJudged(f"{self.name}: {reason}: {message}")
            case PrepareResult() | TrainResult() | AnswerResult() | EvaluateResult() | None:
                return self._unexplained
            case never:
                assert_never(never)

    @property
    def _unexplained(self) -> NotJudged:
        self.reader.join(STOP_SECONDS)
        output = "\n".join(self.lines)[-SHOWN:]
        return NotJudged(f"{self.name} ended with code {self.code}, without a result. Its output ends with:\n{output}")


@contextmanager
def running(
    name: str, module: str, task: AnyTask, folder: Path, volumes: Path, listener: Listener = lambda _: None
) -> Iterator[Process]:
    """A process of a pod with its task, stopped at the end of the block. `listener` gets each line of its output."""
    folder.mkdir(parents=True, exist_ok=True)
    document, termination = folder / "task.json", folder / "termination"
    document.write_text(encode(task))
    termination.unlink(missing_ok=True)
    variables = {name: value for name, value in os.environ.items() if name != TASK_ENV}
    variables |= {TASK_FILE_ENV: str(document), TERMINATION_ENV: str(termination), VOLUMES_ENV: str(volumes)}
    with ExitStack() as ending:
        with _undisturbed():
            popen = subprocess.Popen(  # noqa: S603 - our own module
                # -P: a file of the working directory does not replace a module. A session of its own: Ctrl-C ends only
                # the command, which then stops its processes in order.
                [sys.executable, "-P", "-m", module],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            ending.callback(_stop, popen)
        assert popen.stdout is not None
        lines: deque[str] = deque(maxlen=KEPT_LINES)
        reader = threading.Thread(target=_read, args=(popen.stdout, lines, listener), daemon=True)
        reader.start()
        try:
            yield Process(name, popen, termination, lines, reader)
        finally:
            _stop(popen)
            reader.join(STOP_SECONDS)


def wait_for(process: Process, seconds: float, beside: Sequence[Process] = ()) -> None:
    """Wait until the process has ended well. Raises NotJudged, also if one of `beside` has ended, or `seconds` are
    over.
    """
    deadline = time.monotonic() + seconds
    while process.code is None:
        for other in beside:
            if other.code is not None:
                raise other.failure
        if time.monotonic() > deadline:
            raise NotJudged(f"{process.name} did not end within {seconds:g} s")
        time.sleep(POLL_SECONDS)
    if process.code != 0:
        raise process.failure


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that end the command wait for the end of the block: else a process that just starts would be left."""
    came: list[int] = []
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in ENDING}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came:
            signal.raise_signal(number)


def _stop(popen: subprocess.Popen[bytes]) -> None:
    if popen.poll() is not None:
        return
    try:
        popen.terminate()
        popen.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        popen.kill()
        popen.wait()


def _read(stream: IO[bytes], lines: deque[str], listener: Listener) -> None:
    for line in iter(lambda: stream.readline(LONGEST_LINE), b""):
        text = message_of(line.decode(errors="replace").rstrip())
        lines.append(text)
        listener(text)
