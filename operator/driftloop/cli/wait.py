"""Waits for a job, a version or a service: `driftloop wait`."""

import argparse
from collections.abc import Sequence
from typing import Literal, assert_never

from driftloop.cli.cluster import Cluster
from driftloop.cli.exits import HELP, Exit
from driftloop.cli.options import add_cluster, add_output, add_timeout
from driftloop.cli.output import print_result
from driftloop.cli.program import usage
from driftloop.cli.session import run_in_cluster
from driftloop.cli.subjects import (
    Result,
    wait_for_job,
    wait_for_judgement,
    wait_for_promotion,
    wait_for_readiness,
    wait_for_version,
)

Goal = Literal["complete", "judged", "approved", "ready", "promoted"]
GOALS: dict[str, tuple[Goal, ...]] = {
    "job": ("complete", "judged"),
    "version": ("approved", "judged"),
    "service": ("ready", "promoted"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Wait, and print how it ended. Returns the exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    goal: Goal = parsed.goal or ("promoted" if parsed.version else GOALS[parsed.kind][0])
    if fault := _fault(parsed, goal):
        parser.error(fault)

    async def work(cluster: Cluster) -> Exit:
        result = await _wait(cluster, parsed, goal)
        print_result(parsed.output, f"{parsed.kind} {parsed.name}: {result.ending.message}", result.document())
        return result.ending.exit

    return run_in_cluster(parsed, work)


async def _wait(cluster: Cluster, parsed: argparse.Namespace, goal: Goal) -> Result:
    match goal:
        case "complete":
            return await wait_for_job(cluster, parsed.name, parsed.timeout)
        case "judged" if parsed.kind == "job":
            return await wait_for_judgement(cluster, parsed.name, parsed.timeout)
        case "approved" | "judged":
            return await wait_for_version(cluster, parsed.name, goal, parsed.timeout)
        case "ready":
            return await wait_for_readiness(cluster, parsed.name, parsed.timeout)
        case "promoted":
            return await wait_for_promotion(cluster, parsed.name, parsed.version, parsed.timeout)
        case never:
            assert_never(never)


def _fault(parsed: argparse.Namespace, goal: Goal) -> str | None:
    """What is wrong with the combination of options."""
    if parsed.version and (parsed.kind != "service" or goal != "promoted"):
        return "--version: only for a service, with --for promoted"
    if goal not in GOALS[parsed.kind]:
        return f"--for {goal}: a {parsed.kind} can be waited for with --for {' or '.join(GOALS[parsed.kind])}"
    if goal == "promoted" and not parsed.version:
        return "--for promoted: name the version with --version"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=usage("wait"),
        description="Waits for a FineTuneJob, a ModelVersion or an InferenceService. It needs only the rights to get "
        "and watch them, and to list Deployments for a promotion.",
        epilog=HELP,
    )
    parser.add_argument("kind", choices=tuple(GOALS), help="what to wait for")
    parser.add_argument("name", help="name of the object. It need not exist yet")
    parser.add_argument(
        "--for",
        dest="goal",
        choices=tuple(dict.fromkeys(goal for goals in GOALS.values() for goal in goals)),
        help="job: complete (it has created its version; the default) or judged (its version is judged too). "
        "version: approved (the default) or judged (the same, but exit code 5 if a person must approve). "
        "service: ready (it serves what its spec asks for; the default) or promoted (it has promoted --version)",
    )
    parser.add_argument(
        "--version",
        metavar="VERSION",
        help="service: wait until this ModelVersion is promoted. Exit code 1 if it was rolled back, also before",
    )
    add_timeout(parser, "1h")
    add_output(parser)
    add_cluster(parser)
    return parser
