"""The commands of `driftloop`. Each imports its modules when it runs: an image has the packages of one command only."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    commands = {"operator": _operator, "crds": _crds, "plan": _plan}
    parser = argparse.ArgumentParser(
        prog="driftloop", description="Fine-tunes, evaluates, serves and retrains language models on Kubernetes."
    )
    parser.add_argument(
        "command",
        choices=sorted(commands),
        help="operator: run the operator; crds: generate the CRDs; plan: print the plan for a FineTuneJob without a "
        "cluster",
    )
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="arguments of the command: see `driftloop COMMAND --help`"
    )
    parsed = parser.parse_args(arguments)
    return commands[parsed.command](parsed.arguments)


def _operator(arguments: list[str]) -> int:
    from driftloop.controller.kinds.registry import KINDS
    from driftloop.controller.process.operator import Operator
    from driftloop.controller.process.options import add_arguments, options
    from driftloop.controller.runtime import logs
    from driftloop.controller.runtime.kube.serverversion import UnsupportedServer

    parser = argparse.ArgumentParser(prog="driftloop operator", description="Runs the operator.")
    add_arguments(parser)
    try:
        parsed = options(parser.parse_args(arguments))
    except ValueError as error:
        parser.error(str(error))
    logs.configure(parsed.log_level)
    try:
        asyncio.run(Operator(parsed, KINDS).run())
    except UnsupportedServer as error:
        logging.getLogger("driftloop").error("%s", error)
        return 1
    return 0


def _crds(arguments: list[str]) -> int:
    from driftloop.cli.crds import main as crds

    return crds(arguments)


def _plan(arguments: list[str]) -> int:
    from driftloop.cli.plan import main as plan

    return plan(arguments)


if __name__ == "__main__":
    sys.exit(main())
