"""The name by which the commands were called: `driftloop`, or `kubectl driftloop` as a plugin of kubectl."""

import sys
from pathlib import Path

PLUGIN = "kubectl-driftloop"


def program() -> str:
    """The words that start a command line."""
    return "kubectl driftloop" if Path(sys.argv[0]).name.startswith(PLUGIN) else "driftloop"


def usage(command: str) -> str:
    """The words that start the command line of a command."""
    return f"{program()} {command}"
