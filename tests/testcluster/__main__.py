"""The command line: `testcluster up`, `images`, `down`, and faults for tests."""

import argparse
import json
import os
import sys

from testcluster import images, local, providers
from testcluster.console import Error
from testcluster.paths import KUBECONFIG


def main(arguments: list[str]) -> None:
    """Run one command; Error says what went wrong."""
    chosen = _parser().parse_args(arguments)
    provider = providers.choose(chosen.provider)
    match chosen.command:
        case "up":
            provider.up()
            providers.remember(provider)
        case "down":
            provider.down()
            providers.remember(None)
        case "images":
            references = provider.provide_images(chosen.name or list(images.DOCKERFILES))
            print(json.dumps(references) if chosen.json else "\n".join(references.values()))
        case "status":
            print(provider.status())
        case "kubeconfig":
            print(f"export KUBECONFIG={KUBECONFIG}")
        case "fail-node":
            provider.fail_node(chosen.node)
        case "heal-node":
            provider.heal_node(chosen.node)
        case "stop":
            local.load().service(chosen.service).stop()
        case "start":
            local.load().service(chosen.service).start()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="testcluster", description="A Kubernetes cluster for tests and demos.")
    parser.add_argument(
        "--provider",
        default=os.environ.get("CLUSTER") or "auto",
        help="current: kubectl's context; kind: in Docker; local: on this machine, as root (default: $CLUSTER or auto)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the cluster, or what is missing of it")
    commands.add_parser("down", help="remove it without a trace; binaries and images stay in the cache")
    commands.add_parser("status", help="what runs")
    commands.add_parser("kubeconfig", help="print the line that points kubectl at the cluster")
    build = commands.add_parser("images", help="build the images that changed and load them into the nodes")
    build.add_argument("name", nargs="*", help=f"of {', '.join(images.DOCKERFILES)}; all by default")
    build.add_argument("--json", action="store_true", help="print the references as JSON, by name")
    commands.add_parser("fail-node", help="cut a node off").add_argument("node")
    commands.add_parser("heal-node", help="connect it again").add_argument("node")
    commands.add_parser("stop", help="local: kill one daemon, as a crash would").add_argument("service")
    commands.add_parser("start", help="local: start it again").add_argument("service")
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Error as failed:
        sys.exit(f"error: {failed}")
