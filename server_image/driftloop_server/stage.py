"""The beginning of a serving container: its task."""

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
