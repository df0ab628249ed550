"""`python -m driftloop_trainer.evaluate`: see `--help`."""

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
from driftloop_trainer.evaluate.stage import answer, evaluate


def _stage() -> AnyResult:
    match from_environment():
        case AnswerTask() as task:
            return answer(task)
        case EvaluateTask() as task:
            return evaluate(task)
        case PrepareTask() | TrainTask() | ServeTask() | DoorTask() as other:
            raise StageFailure(StageReason.BAD_TASK, f"expected a task of kind Answer or Evaluate, not {other.kind}")
        case never:
            assert_never(never)


if __name__ == "__main__":
    parse_arguments(
        "driftloop_trainer.evaluate", "Ask the served model every item, and write its answers or the evidence."
    )
    logs.setup()
    exit_on_sigterm()
    sys.exit(run_stage(_stage))
