"""Prints what differs between two versions: `driftloop diff`."""

import argparse
from collections.abc import Sequence

from driftloop.cli import differences
from driftloop.cli.cluster import Cluster
from driftloop.cli.exits import HELP, Exit
from driftloop.cli.lineage import generations
from driftloop.cli.options import add_cluster, add_output
from driftloop.cli.output import print_result
from driftloop.cli.program import usage
from driftloop.cli.session import missing, run_in_cluster


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the differences. Returns the exit code."""
    parsed = _parser().parse_args(arguments)

    async def work(cluster: Cluster) -> Exit:
        both = [(await generations(cluster, name, 1))[0] for name in (parsed.before, parsed.after)]
        for generation in both:
            if generation.version is None:
                return missing("ModelVersion", generation.name, cluster.namespace)
        changes = differences.changes(*both)
        document = {"before": parsed.before, "after": parsed.after, "changes": [change.dump() for change in changes]}
        print_result(parsed.output, differences.text(changes, parsed.before, parsed.after), document)
        return Exit.DONE

    return run_in_cluster(parsed, work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=usage("diff"),
        description="Prints what differs between two ModelVersions: results of the gates, data, settings of their "
        "jobs and evaluations, and artefacts. What is equal is left out. Differences do not change the exit status.",
        epilog=HELP,
    )
    parser.add_argument("before", help="name of a ModelVersion")
    parser.add_argument("after", help="name of the other ModelVersion")
    add_output(parser)
    add_cluster(parser)
    return parser
