"""The commands of `driftloop`. Each imports its modules when it runs: an image has the packages of one command only."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from driftloop.cli.program import program


@dataclass(frozen=True)
class Command:
    """A command: the module and its function that run it, and what it does."""

    module: str
    summary: str
    function: str = "main"


COMMANDS = {
    "validate": Command("validate", "check manifests, without a cluster or with the API server"),
    "plan": Command("plan", "print the plan for a FineTuneJob without a cluster"),
    "gate": Command("gate", "judge a model folder by its suites, on this machine without a cluster"),
    "detect": Command("detect", "detect drift in a log or in counters, without the operator"),
    "run": Command("run", "run a FineTuneJob, and follow it until its version is judged"),
    "wait": Command("wait", "wait for a job, a version, or a promotion"),
    "pin": Command("pin", "pin a version in the manifest of a service, for Git and Argo CD"),
    "propose": Command("propose", "pin a version, commit it, and open the merge request"),
    "lineage": Command("lineage", "print where a version comes from: job, data, parents, alert"),
    "diff": Command("diff", "print what differs between two versions"),
    "approve": Command("approve", "approve a version that no suite judged"),
    "promote": Command("rollout", "let the candidate of a service take over at once", "promote"),
    "pause": Command("rollout", "pause the rollout of a service", "pause"),
    "resume": Command("rollout", "let a paused rollout go on", "resume"),
    "abort": Command("rollout", "roll the candidate of a service back", "abort"),
    "rollback": Command("rollout", "abort the candidate, or return to the version that served before", "rollback"),
    "crds": Command("crds", "generate the CRDs"),
    "operator": Command("operate", "run the operator"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status."""
    parser = _parser()
    parsed = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))
    command = COMMANDS[parsed.command]
    run = getattr(import_module(f"driftloop.cli.{command.module}"), command.function)
    return int(run(parsed.arguments))


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=program(),
        description="Fine-tunes, evaluates, serves and retrains language models on Kubernetes.",
        epilog=f"commands:\n{listed}\n\n`{program()} COMMAND --help` explains the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=tuple(COMMANDS), metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the command")
    return parser


if __name__ == "__main__":
    sys.exit(main())
