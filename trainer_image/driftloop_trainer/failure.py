"""How a stage ends: its result or its error as termination message, and the exit code that goes with it."""

import os
import signal
import sys
import traceback
from collections.abc import Callable

from pydantic import ValidationError

from driftloop.contract.manifest import ManifestError
from driftloop.contract.names import EXIT_BAD_INPUT, EXIT_DONE, EXIT_RETRY
from driftloop.contract.result import AnyResult, StageError, emit
from driftloop.podlib.storage import StorageError

_MESSAGE_BYTES = 1900  # at worst each is a quote, which JSON writes as two: a termination message holds 4,096


class StageFailure(Exception):
    """A stage cannot go on. `message` says what to fix; `exit_code` says whether trying again may help."""

    def __init__(self, reason: str, message: str, exit_code: int = EXIT_BAD_INPUT) -> None:
        super().__init__(reason, message, exit_code)
        self.reason = reason
        self.message = message
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def run_stage(stage: Callable[[], AnyResult]) -> int:
    """Run `stage`, emit what it returns or why it failed, and return the exit code."""
    try:
        emit(stage())
        return EXIT_DONE
    except Exception as error:
        failure = classify(error)
        if failure.exit_code != EXIT_BAD_INPUT:
            traceback.print_exc()
    print(f"error: {failure}", file=sys.stderr, flush=True)
    emit(StageError(reason=failure.reason, message=bounded(failure.message)))
    return failure.exit_code


def bounded(message: str) -> str:
    """The beginning of `message` on one line, short enough for a termination message."""
    line = "".join(character if character.isprintable() else " " for character in message)
    return line.encode()[:_MESSAGE_BYTES].decode(errors="ignore")


def classify(error: BaseException) -> StageFailure:
    """The failure that `error` amounts to: bad input is never retried, all else is."""
    match error:
        case StageFailure():
            return error
        case ManifestError():
            return StageFailure("DigestMismatch", str(error))
        case StorageError():
            return StageFailure("StorageUnreadable", str(error), EXIT_RETRY if error.passing else EXIT_BAD_INPUT)
        case ValidationError():
            return StageFailure("BadTask", str(error))
        case _:
            return StageFailure("Unexpected", f"{type(error).__name__}: {error}", EXIT_RETRY)


def exit_on_sigterm() -> None:
    """Leave at once when told to. Process 1 of a container ignores SIGTERM unless it has a handler."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
