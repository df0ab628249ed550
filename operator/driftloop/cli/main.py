"""`driftloop`: the commands. Each imports what it needs when it runs, as an image holds one command's packages."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    commands = {"operator": _operator, "crds": _crds}
    parser = argparse.ArgumentParser(prog="driftloop", description="Closes the loop around a language model.")
    parser.add_argument("command", choices=sorted(commands), help="operator: run it; crds: generate crds/")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see `driftloop COMMAND --help`")
    found = parser.parse_args(arguments)
    return commands[found.command](found.arguments)


def _operator(arguments: list[str]) -> int:
    from driftloop.controller.kinds.registry import KINDS
    from driftloop.controller.process.operator import Operator
    from driftloop.controller.process.options import add_arguments, options
    from driftloop.controller.runtime import logs
    from driftloop.controller.runtime.kube.serverversion import UnsupportedServer

    parser = argparse.ArgumentParser(prog="driftloop operator", description="Runs the operator.")
    add_arguments(parser)
    try:
        found = options(parser.parse_args(arguments))
    except ValueError as error:
        parser.error(str(error))
    logs.configure(found.log_level)
    try:
        asyncio.run(Operator(found, KINDS).run())
    except UnsupportedServer as error:
        logging.getLogger("driftloop").error("%s", error)
        return 1
    return 0


def _crds(arguments: list[str]) -> int:
    from driftloop.cli.crds import main as crds

    return crds(arguments)


if __name__ == "__main__":
    sys.exit(main())
