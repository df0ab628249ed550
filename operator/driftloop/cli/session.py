"""Runs the part of a command that needs a cluster, and turns what went wrong into an exit code."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

from driftloop.cli.cluster import Cluster, Where
from driftloop.cli.exits import Exit
from driftloop.cli.follow import refusal
from driftloop.cli.manifests import BadInput
from driftloop.controller.runtime.kube.api import ApiError

INVALID = (400, 413, 422)  # the answers of an API server for a wrong object


def run_in_cluster(parsed: argparse.Namespace, work: Callable[[Cluster], Awaitable[Exit]]) -> int:
    """Connect by the options of `add_cluster`, and run `work`. Returns the exit code; errors are on standard error."""
    where = Where(parsed.namespace, parsed.context, parsed.kubeconfig)
    try:
        return asyncio.run(_connected(where, work))
    except BadInput as error:
        return _complain(Exit.USAGE, str(error))
    except ApiError as error:
        return _complain(exit_of(error), refusal(error))
    except KeyboardInterrupt:
        return _complain(Exit.INTERRUPTED, "interrupted")


def exit_of(error: ApiError) -> Exit:
    """The exit code for an error answer: a wrong object is the manifest's fault, all else the cluster's."""
    return Exit.USAGE if error.code in INVALID else Exit.CLUSTER


def missing(kind: str, name: str, namespace: str) -> Exit:
    """Complain that an object does not exist. Returns the exit code."""
    return _complain(Exit.FAILED, f"there is no {kind} {name} in namespace {namespace}")


async def _connected(where: Where, work: Callable[[Cluster], Awaitable[Exit]]) -> Exit:
    cluster = await Cluster.connect(where)
    try:
        return await work(cluster)
    finally:
        await cluster.close()


def _complain(code: Exit, message: str) -> Exit:
    print(f"error: {message}", file=sys.stderr)
    return code
