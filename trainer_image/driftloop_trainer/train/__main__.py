"""`python -m driftloop_trainer.train`: see `--help`."""

import os
import sys

from driftloop.contract.result import AnyResult
from driftloop.contract.task import TrainTask, from_environment
from driftloop_trainer.cli import parse_arguments
from driftloop_trainer.failure import StageFailure, exit_on_sigterm, run_stage

_INDEX = "JOB_COMPLETION_INDEX"


def _stage() -> AnyResult:
    task = from_environment()
    if not isinstance(task, TrainTask):
        raise StageFailure("BadTask", f"expected a Train task, got {task.kind}")
    from driftloop_trainer.train import driver  # imports Ray and torch: --help should not wait for them

    if os.environ.get(_INDEX, "0") != "0":
        driver.lend(task)
    return driver.lead(task)


if __name__ == "__main__":
    parse_arguments(
        "driftloop_trainer.train",
        "Train on a prepared folder with Ray Train and FSDP2; leave a model folder in storage.\n"
        f"{_INDEX} 0 leads (Ray's head, metrics on port 9090); the others lend their workers to it.",
    )
    exit_on_sigterm()
    sys.exit(run_stage(_stage))
