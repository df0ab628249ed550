"""The ends of a serving container: what its task is, and how it says why it can't do it."""

import logging
import sys
from typing import NoReturn

from driftloop.contract import result, task
from driftloop.contract.names import EXIT_BAD_INPUT, EXIT_RETRY

log = logging.getLogger(__name__)


class StageFailure(Exception):
    """Why a container can't go on. `reason` is one CamelCase word, the message says what to fix."""

    exit_code = EXIT_RETRY

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadInput(StageFailure):
    """The task or the model is wrong: trying again won't help."""

    exit_code = EXIT_BAD_INPUT


class TryAgain(StageFailure):
    """Something is not there now, and may be later."""


def serve_task() -> task.ServeTask:
    """The task of this container. Raises BadInput."""
    try:
        found = task.from_environment()
    except (ValueError, OSError) as error:
        raise BadInput("TaskUnreadable", f"the task document can't be read: {error}") from error
    if not isinstance(found, task.ServeTask):
        raise BadInput("TaskUnreadable", f"expected a task of kind Serve, found {found.kind}")
    return found


def setup_logging() -> None:
    """One line an event, on stderr. Prompts and answers are never logged."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def fail(error: StageFailure) -> NoReturn:
    """Leave the reason as termination message, and exit with its code."""
    log.error("%s: %s", error.reason, error)
    try:
        result.emit(result.StageError(reason=error.reason, message=str(error)[:1500]))
    except (OSError, ValueError) as trouble:  # outside a pod there is no such file
        log.warning("no termination message: %s", trouble)
    sys.exit(error.exit_code)
