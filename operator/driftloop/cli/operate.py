"""Runs the operator: `driftloop operator`. Joins the kinds and the process, which do not know each other."""

import argparse
import asyncio
import logging
from collections.abc import Sequence

from driftloop.cli.program import usage
from driftloop.controller.kinds.registry import KINDS
from driftloop.controller.process.operator import Operator
from driftloop.controller.process.options import add_arguments, options
from driftloop.controller.runtime import logs
from driftloop.controller.runtime.kube.serverversion import UnsupportedServer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator until it is stopped. Returns the exit status."""
    parser = argparse.ArgumentParser(prog=usage("operator"), description="Runs the operator.")
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
