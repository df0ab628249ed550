"""The command line of all stages. The task comes from the environment, or from a file for manual runs."""

import argparse
import os

from driftloop.contract.names import DISK_ENV, TASK_ENV, TASK_FILE_ENV, TERMINATION_ENV, VOLUMES_ENV


def parse_arguments(module: str, description: str) -> None:
    """Parse the command line. `--task FILE` sets the environment variable with the name of the task's file."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "environment:\n"
            f"  {TASK_ENV}: the task as a JSON document (driftloop/contract/task.py)\n"
            f"  {TASK_FILE_ENV}: a file with the task\n"
            f"  {VOLUMES_ENV}: the folder with the volumes: pvc://CLAIM is the folder CLAIM in it (default /volumes)\n"
            f"  {DISK_ENV}: a folder for copies that are too large for memory (default /disk if there is one)\n"
            f"  {TERMINATION_ENV}: the file for the result (default /dev/termination-log)\n"
            "exit codes: 0 done; 78 the input is wrong, so a retry doesn't help; 75 retry"
        ),
    )
    parser.add_argument("--task", metavar="FILE", help="read the task from FILE")
    arguments = parser.parse_args()
    if arguments.task:
        os.environ.pop(TASK_ENV, None)
        os.environ[TASK_FILE_ENV] = arguments.task
