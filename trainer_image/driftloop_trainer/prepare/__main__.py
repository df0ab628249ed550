"""`python -m driftloop_trainer.prepare`: see `--help`."""

import sys
from typing import assert_never

from driftloop.contract.reasons import StageReason
from driftloop.contract.result import AnyResult
from driftloop.contract.task import (
    AnswerTask,
    DoorTask,
    EvaluateTask,
    PrepareTask,
    ServeTask,
    TrainTask,
    from_environment,
)
from driftloop.podlib import logs
from driftloop.podlib.ending import StageFailure, exit_on_sigterm, run_stage
from driftloop_trainer.cli import parse_arguments
from driftloop_trainer.prepare.stage import prepare


def _stage() -> AnyResult:
    match from_environment():
        case PrepareTask() as task:
            return prepare(task)
        case TrainTask() | AnswerTask() | EvaluateTask() | ServeTask() | DoorTask() as other:
            raise StageFailure(StageReason.BAD_TASK, f"expected a task of kind Prepare, not {other.kind}")
        case never:
            assert_never(never)


if __name__ == "__main__":
    parse_arguments("driftloop_trainer.prepare", "Clean, divide and tokenise a job's data, and write it to storage.")
    logs.setup()
    exit_on_sigterm()
    sys.exit(run_stage(_stage))
