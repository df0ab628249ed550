"""The command line: `testcluster up`, `images`, `down`, and faults for tests."""

import argparse
import json
import os
import sys

from testcluster import images, local, providers
from testcluster.console import Error
from testcluster.paths import KUBECONFIG


def main(arguments: list[str]) -> None:
    """Run one command. Raises Error."""
    options = _parser().parse_args(arguments)
    provider = providers.choose(options.provider)
    match options.command:
        case "up":
            provider.up()
            providers.remember(provider)
        case "down":
            provider.down()
            providers.remember(None)
        case "images":
            references = provider.provide_images(options.name or list(images.DEFAULT))
            print(json.dumps(references) if options.json else "\n".join(references.values()))
        case "status":
            print(provider.status())
        case "kubeconfig":
            print(f"export KUBECONFIG={KUBECONFIG}")
        case "fail-node":
            provider.fail_node(options.node)
        case "heal-node":
            provider.heal_node(options.node)
        case "stop":
            local.load().service(options.service).stop()
        case "start":
            local.load().service(options.service).start()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="testcluster", description="A Kubernetes cluster for tests and demos.")
    parser.add_argument(
        "--provider",
        default=os.environ.get("CLUSTER") or "auto",
        help="current: kubectl's context; kind: in Docker; local: on this machine, as root (default: $CLUSTER or auto)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the cluster, or its missing parts")
    commands.add_parser("down", help="remove the cluster completely; binaries and images stay in the cache")
    commands.add_parser("status", help="show what is running")
    commands.add_parser("kubeconfig", help="print the shell command that points kubectl at the cluster")
    build = commands.add_parser("images", help="build changed images and load them into the nodes")
    few = " and ".join(images.FEW_TESTS)
    build.add_argument("name", nargs="*", help=f"one of {', '.join(images.DOCKERFILES)}; default: all but {few}")
    build.add_argument("--json", action="store_true", help="print the references as JSON, by name")
    commands.add_parser("fail-node", help="disconnect a node").add_argument("node")
    commands.add_parser("heal-node", help="reconnect a node").add_argument("node")
    commands.add_parser("stop", help="local: kill one daemon, like a crash").add_argument("service")
    commands.add_parser("start", help="local: start a daemon again").add_argument("service")
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Error as failed:
        sys.exit(f"error: {failed}")
