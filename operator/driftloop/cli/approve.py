"""Approves a version that no suite judged: `driftloop approve`."""

import argparse
from collections.abc import Sequence

from driftloop.api.base import API_VERSION
from driftloop.cli.cluster import Cluster
from driftloop.cli.exits import HELP, Exit
from driftloop.cli.follow import Ending
from driftloop.cli.options import add_cluster, add_output, add_timeout
from driftloop.cli.output import print_result
from driftloop.cli.program import usage
from driftloop.cli.session import missing, run_in_cluster
from driftloop.cli.subjects import Result, wait_for_version
from driftloop.controller.vocabulary.labels import APPROVE_VERSION
from driftloop.controller.vocabulary.objects import phase
from driftloop.controller.vocabulary.plan import Obj


def main(arguments: Sequence[str] | None = None) -> int:
    """Set the annotation and wait until the version is Approved. Returns the exit code."""
    parsed = _parser().parse_args(arguments)

    async def work(cluster: Cluster) -> Exit:
        version = await cluster.get("ModelVersion", parsed.name)
        if version is None:
            return missing("ModelVersion", parsed.name, cluster.namespace)
        ending = obstacle(version)
        if ending:
            result = Result(ending, (version,))
        else:
            await cluster.apply(approval(parsed.name, cluster.namespace), force=True)
            result = await wait_for_version(cluster, parsed.name, "approved", parsed.timeout)
        print_result(parsed.output, f"version {parsed.name}: {result.ending.message}", result.document())
        return result.ending.exit

    return run_in_cluster(parsed, work)


def obstacle(version: Obj) -> Ending | None:
    """Why there is nothing to approve; None if the version awaits approval."""
    match phase(version):
        case "AwaitingApproval":
            return None
        case "Approved":
            return Ending(Exit.DONE, "is Approved already", version)
        case other:
            message = f"is {other or 'Pending'}: only a version in phase AwaitingApproval can be approved"
            return Ending(Exit.FAILED, message, version)


def approval(name: str, namespace: str) -> Obj:
    """The annotation as an object to apply: the version's own name, so that a copied manifest approves nothing."""
    metadata = {"name": name, "namespace": namespace, "annotations": {APPROVE_VERSION: name}}
    return {"apiVersion": API_VERSION, "kind": "ModelVersion", "metadata": metadata}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=usage("approve"),
        description="Approves a ModelVersion that no suite judged, by the annotation driftloop.dev/approve, and waits "
        "until the operator has accepted it. While a stable version serves, the operator does not: such a version was "
        "not compared with it. The account needs the right to patch ModelVersions (deploy/pipeline/approver.yaml).",
        epilog=HELP,
    )
    parser.add_argument("name", help="name of the ModelVersion")
    add_timeout(parser, "1m")
    add_output(parser)
    add_cluster(parser)
    return parser
