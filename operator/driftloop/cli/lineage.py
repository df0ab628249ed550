"""Prints where a version comes from: `driftloop lineage`."""

import argparse
from collections.abc import Sequence

from driftloop.api.modelversion import ModelVersion
from driftloop.cli import ancestry
from driftloop.cli.ancestry import Generation
from driftloop.cli.cluster import Cluster
from driftloop.cli.exits import HELP, Exit
from driftloop.cli.options import add_cluster, add_output, positive
from driftloop.cli.output import print_result
from driftloop.cli.program import usage
from driftloop.cli.session import missing, run_in_cluster


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the ancestry of a version. Returns the exit code."""
    parsed = _parser().parse_args(arguments)

    async def work(cluster: Cluster) -> Exit:
        ancestors = await generations(cluster, parsed.name, parsed.depth)
        if ancestors[0].version is None:
            return missing("ModelVersion", parsed.name, cluster.namespace)
        documents = [ancestry.document(generation) for generation in ancestors]
        print_result(parsed.output, ancestry.text(ancestors), {"name": parsed.name, "generations": documents})
        return Exit.DONE

    return run_in_cluster(parsed, work)


async def generations(cluster: Cluster, name: str, depth: int) -> list[Generation]:
    """The version and its parents, the newest first, at most `depth`."""
    ancestors: list[Generation] = []
    following: str | None = name
    while following and len(ancestors) < depth and following not in {generation.name for generation in ancestors}:
        version = await cluster.get("ModelVersion", following)
        lineage = ModelVersion.model_validate(version).spec.lineage if version else None
        job = await cluster.get("FineTuneJob", lineage.job) if lineage and lineage.job else None
        ancestors.append(Generation(following, version, ancestry.job_of(version, job) if version else None))
        following = lineage.parent if lineage else None
    return ancestors


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=usage("lineage"),
        description="Prints where a ModelVersion comes from: its job, the digests of its data, the version that "
        "training started from and the ones before, and the alert that asked for it.",
        epilog=HELP,
    )
    parser.add_argument("name", help="name of the ModelVersion")
    parser.add_argument("--depth", type=positive, default=20, help="most versions to print (default: %(default)s)")
    add_output(parser)
    add_cluster(parser)
    return parser
