"""Runs a FineTuneJob and follows it until its version is judged: `driftloop run`."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from driftloop.cli.cluster import Cluster
from driftloop.cli.exits import HELP, Exit
from driftloop.cli.faults import MAX_NAME, faults_of
from driftloop.cli.follow import Ending
from driftloop.cli.manifests import BadInput, Manifest, one_job
from driftloop.cli.options import add_cluster, add_output, add_timeout
from driftloop.cli.output import print_result
from driftloop.cli.program import usage
from driftloop.cli.session import run_in_cluster
from driftloop.cli.subjects import Result, wait_for_judgement


def main(arguments: Sequence[str] | None = None) -> int:
    """Apply the job, follow it, and print how it ended. Returns the exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        manifest = one_job(parsed.filename)
        name = suffixed(parsed.name or manifest.name, parsed.suffix) if parsed.suffix else parsed.name
        job = job_to_apply(manifest, name, parsed.namespace)
    except BadInput as error:
        parser.error(str(error))
    parsed.namespace = job["metadata"].get("namespace")

    async def work(cluster: Cluster) -> Exit:
        name = job["metadata"]["name"]
        applied = await cluster.apply({**job, "metadata": {**job["metadata"], "namespace": cluster.namespace}})
        if parsed.no_wait:
            result = Result(Ending(Exit.DONE, "applied", applied), (applied,))
        else:
            result = await wait_for_judgement(cluster, name, parsed.timeout)
        _print(parsed.output, f"job {name}: {result.ending.message}", result)
        return result.ending.exit

    return run_in_cluster(parsed, work)


def _print(output: str, text: str, result: Result) -> None:
    if output == "name":
        print(text, file=sys.stderr)
        print(result.version or "")
    else:
        print_result(output, text, result.document())


def suffixed(name: str, suffix: str) -> str:
    """A name with a suffix in lower case, as long as a name may be. Only the name is cut.

    >>> suffixed("support-desk", "4F2A91/main")
    'support-desk-4f2a91-main'
    """
    words = re.sub(r"[^a-z0-9]+", "-", suffix.lower()).strip("-")
    tail = f"-{words}" if words else ""
    return name[: max(0, MAX_NAME - len(tail))].rstrip("-") + tail


def job_to_apply(manifest: Manifest, name: str | None, namespace: str | None) -> dict[str, Any]:
    """The job of a manifest with the options' name and namespace. Raises BadInput."""
    metadata = manifest.document.get("metadata")
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    own = metadata.get("namespace")
    if own and namespace and own != namespace:
        raise BadInput(f"{manifest.source}: metadata.namespace is {own}, but --namespace is {namespace}: remove one")
    metadata |= {"name": name or metadata.get("name")}
    metadata |= {"namespace": own or namespace} if own or namespace else {}
    document = {key: value for key, value in manifest.document.items() if key != "status"} | {"metadata": metadata}
    if faults := faults_of(document):
        raise BadInput("\n".join(f"{manifest.source}: {fault}" for fault in faults))
    return document


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=usage("run"),
        description="Applies a FineTuneJob by server-side apply, with the field manager driftloop-cli, and follows it "
        "until the ModelVersion that it creates is judged by its gates. If the job exists already with the same spec, "
        "it is only followed, so a step of a pipeline can be repeated.",
        epilog=HELP,
    )
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        required=True,
        metavar="FILE",
        help="file or folder with the FineTuneJob; - reads standard input; may be repeated",
    )
    parser.add_argument(
        "--name",
        help="name of the job, in place of the manifest's",
    )
    parser.add_argument(
        "--suffix",
        metavar="TEXT",
        help="text that is added to the name, such as the commit. The spec of a job can't be changed, so a pipeline "
        "gives each change a job of its own",
    )
    parser.add_argument("--no-wait", action="store_true", help="only apply the job")
    add_timeout(parser, "24h")
    add_output(parser, "text", "json", "name")
    add_cluster(parser)
    return parser
