"""The command line that the stages share: a task from the environment, or from a file for runs by hand."""

import argparse
import os

from driftloop.contract.names import TASK_ENV, TASK_FILE_ENV, TERMINATION_ENV, VOLUMES_ENV


def parse_arguments(module: str, description: str) -> None:
    """Parse the command line; `--task FILE` sets the environment variable that names the task's file."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "environment:\n"
            f"  {TASK_ENV}: the task, one JSON document (driftloop/contract/task.py)\n"
            f"  {TASK_FILE_ENV}: a file that holds it\n"
            f"  {VOLUMES_ENV}: folder where pvc://CLAIM is CLAIM/ (default /volumes)\n"
            f"  {TERMINATION_ENV}: file for the result (default /dev/termination-log)\n"
            "exit codes: 0 done; 78 the input is wrong, trying again is no use; 75 try again"
        ),
    )
    parser.add_argument("--task", metavar="FILE", help="read the task from FILE")
    arguments = parser.parse_args()
    if arguments.task:
        os.environ.pop(TASK_ENV, None)
        os.environ[TASK_FILE_ENV] = arguments.task
