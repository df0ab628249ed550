"""`python -m driftloop_trainer.train`: see `--help`."""

import os
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
from driftloop_trainer.train.cluster.kernel import end_after_kernel_kill
from driftloop_trainer.train.cluster.lend import lend
from driftloop_trainer.train.cluster.node import configure, start_head
from driftloop_trainer.train.shutdown import stop_on_sigterm

_INDEX = "JOB_COMPLETION_INDEX"


def _stage() -> AnyResult:
    match from_environment():
        case TrainTask() as task:
            return _train(task)
        case PrepareTask() | AnswerTask() | EvaluateTask() | ServeTask() | DoorTask() as other:
            raise StageFailure(StageReason.BAD_TASK, f"expected a task of kind Train, not {other.kind}")
        case never:
            assert_never(never)


def _train(task: TrainTask) -> AnyResult:
    """Control the training in pod 0, or add this pod's resources to it. Raises StageFailure."""
    configure(task.workers_per_node)
    stop_on_sigterm(task.grace_period_seconds)
    end_after_kernel_kill()
    if os.environ.get(_INDEX, "0") != "0":
        lend(task)
    head = start_head(task.workers_per_node, task.gpus_per_node)
    from driftloop_trainer.train.cluster.driver import lead  # Ray Train takes seconds to import: while Ray starts

    return lead(task, head)


if __name__ == "__main__":
    parse_arguments(
        "driftloop_trainer.train",
        "Train on a prepared folder with Ray Train and FSDP2; leave a model folder in storage.\n"
        f"{_INDEX} 0 leads (Ray's head, metrics on port 9090); the other pods provide workers to it.",
    )
    logs.setup()
    exit_on_sigterm()
    sys.exit(run_stage(_stage))
