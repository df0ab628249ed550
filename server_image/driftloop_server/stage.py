"""The task of a serving container."""

from typing import assert_never

from driftloop.contract import task
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import BadInput


def serve_task() -> task.ServeTask:
    """Read this container's task from its environment. Raises BadInput."""
    try:
        document = task.from_environment()
    except (ValueError, OSError) as error:
        raise BadInput(StageReason.TASK_UNREADABLE, f"the task document can't be read: {error}") from error
    match document:
        case task.ServeTask():
            return document
        case task.PrepareTask() | task.TrainTask() | task.AnswerTask() | task.EvaluateTask():
            raise BadInput(StageReason.TASK_UNREADABLE, f"expected a task of kind Serve, not {document.kind}")
        case never:
            assert_never(never)
