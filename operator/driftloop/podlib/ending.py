"""How a container ends: its result or error as the termination message, and the matching exit code."""

import logging
import os
import signal
from collections.abc import Callable

from pydantic import ValidationError

from driftloop.contract.manifest import ManifestError
from driftloop.contract.names import EXIT_BAD_INPUT, EXIT_DONE, EXIT_RETRY
from driftloop.contract.phase import BesideSteps
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import AnyResult, StageError, emit
from driftloop.podlib.storage import StorageError

log = logging.getLogger(__name__)

_MESSAGE_BYTES = 1900  # JSON may need two bytes per character, and a termination message can hold 4,096 bytes


class StageFailure(Exception):
    """A container can't continue. `message` explains what to fix. `exit_code` tells whether a retry may help.

    `phase`: what a training that lacked memory did beside its steps.
    """

    def __init__(
        self,
        reason: StageReason,
        message: str,
        exit_code: int = EXIT_BAD_INPUT,
        phase: BesideSteps | None = None,
    ) -> None:
        super().__init__(reason, message, exit_code)
        self.phase = phase
        self.reason = reason
        self.message = message
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class BadInput(StageFailure):
    """The task, the data or the model is wrong, so a retry does not help."""

    def __init__(self, reason: StageReason, message: str) -> None:
        super().__init__(reason, message, EXIT_BAD_INPUT)


class TryAgain(StageFailure):
    """Something is missing now but may appear later, so a retry may help."""

    def __init__(self, reason: StageReason, message: str) -> None:
        super().__init__(reason, message, EXIT_RETRY)


def run_stage(stage: Callable[[], AnyResult]) -> int:
    """Run `stage`, write its result or its error as the termination message, and return the exit code."""
    try:
        emit(stage())
        return EXIT_DONE
    except Exception as error:
        failure = classify(error)
        return report(failure, None if failure.exit_code == EXIT_BAD_INPUT else error)


def report(failure: StageFailure, cause: Exception | None = None) -> int:
    """Log the failure, with the traceback of `cause`, and write it as termination message. Returns its exit code."""
    log.error("%s", failure, exc_info=cause)
    try:
        emit(StageError(reason=failure.reason, message=bounded(failure.message), phase=failure.phase))
    except OSError as error:  # outside a pod this file does not exist
        log.error("termination message not written: %s", error)
    return failure.exit_code


def bounded(message: str) -> str:
    """The start of `message` on one line, short enough for a termination message."""
    line = "".join(character if character.isprintable() else " " for character in message)
    return line.encode()[:_MESSAGE_BYTES].decode(errors="ignore")


def classify(error: BaseException) -> StageFailure:
    """The failure for `error`. Bad input is never retried; everything else is."""
    match error:
        case StageFailure():
            return error
        case ManifestError():
            return StageFailure(StageReason.DIGEST_MISMATCH, str(error))
        case StorageError():
            return StageFailure(
                StageReason.STORAGE_UNREADABLE, str(error), EXIT_RETRY if error.passing else EXIT_BAD_INPUT
            )
        case ValidationError():
            return StageFailure(StageReason.BAD_TASK, str(error))
        case _:
            return StageFailure(StageReason.UNEXPECTED, f"{type(error).__name__}: {error}", EXIT_RETRY)


def exit_on_sigterm() -> None:
    """Exit immediately on SIGTERM. Without a handler, process 1 of a container ignores it."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
