"""`python -m driftloop_trainer.evaluate`: see `--help`."""

import sys

from driftloop.contract.result import AnyResult
from driftloop.contract.task import EvaluateTask, from_environment
from driftloop_trainer.cli import parse_arguments
from driftloop_trainer.evaluate.stage import evaluate
from driftloop_trainer.failure import StageFailure, exit_on_sigterm, run_stage


def _stage() -> AnyResult:
    task = from_environment()
    if not isinstance(task, EvaluateTask):
        raise StageFailure("BadTask", f"expected an Evaluate task, got {task.kind}")
    return evaluate(task)


if __name__ == "__main__":
    parse_arguments(
        "driftloop_trainer.evaluate", "Ask the served candidate and baseline every item; leave evidence in storage."
    )
    exit_on_sigterm()
    sys.exit(run_stage(_stage))
