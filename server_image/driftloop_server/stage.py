"""The task of a container of the server image."""

from typing import assert_never

from driftloop.contract import task
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import BadInput


def serve_task() -> task.ServeTask:
    """Read the task of a serving container from its environment. Raises BadInput."""
    match document := _task():
        case task.ServeTask():
            return document
        case task.PrepareTask() | task.TrainTask() | task.AnswerTask() | task.EvaluateTask() | task.DoorTask():
            raise _unexpected("Serve", document)
        case never:
            assert_never(never)


def door_task() -> task.DoorTask:
    """Read the task of the door from its environment. Raises BadInput."""
    match document := _task():
        case task.DoorTask():
            return document
        case task.PrepareTask() | task.TrainTask() | task.AnswerTask() | task.EvaluateTask() | task.ServeTask():
            raise _unexpected("Door", document)
        case never:
            assert_never(never)


def _task() -> task.AnyTask:
    try:
        return task.from_environment()
    except (ValueError, OSError) as error:
        raise BadInput(StageReason.TASK_UNREADABLE, f"the task document can't be read: {error}") from error


def _unexpected(expected: str, document: task.AnyTask) -> BadInput:
    return BadInput(StageReason.TASK_UNREADABLE, f"expected a task of kind {expected}, not {document.kind}")
