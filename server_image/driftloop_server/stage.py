"""The ends of a serving container: what its task is, and how it says why it can't do it."""

import logging
import sys
from typing import NoReturn

from driftloop.contract import result, task
from driftloop.contract.names import EXIT_BAD_INPUT, EXIT_RETRY

log = logging.getLogger(__name__)


class BadInput(Exception):
    """The task or the model is wrong: trying again won't help. `reason` is CamelCase, the message says what to fix."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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


def fail(error: Exception) -> NoReturn:
    """Leave the reason as termination message and exit: 78 for a BadInput, 75 for all that may pass."""
    bad = isinstance(error, BadInput)
    reason = error.reason if isinstance(error, BadInput) else type(error).__name__
    log.error("%s: %s", reason, error)
    document = result.StageError(reason=reason[:63], message=str(error)[:1500])
    try:
        result.emit(document)
    except (OSError, ValueError) as trouble:  # outside a pod there is no such file
        log.warning("no termination message: %s", trouble)
    sys.exit(EXIT_BAD_INPUT if bad else EXIT_RETRY)
