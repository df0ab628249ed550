"""The beginning of a serving container: its task, and its log."""

import logging
import sys

from driftloop.contract import task
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import BadInput


def serve_task() -> task.ServeTask:
    """The task of this container. Raises BadInput."""
    try:
        found = task.from_environment()
    except (ValueError, OSError) as error:
        raise BadInput(StageReason.TASK_UNREADABLE, f"the task document can't be read: {error}") from error
    if not isinstance(found, task.ServeTask):
        raise BadInput(StageReason.TASK_UNREADABLE, f"expected a task of kind Serve, found {found.kind}")
    return found


def setup_logging() -> None:
    """One line an event, on stderr. Prompts and answers are never logged."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
