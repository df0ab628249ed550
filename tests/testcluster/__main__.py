"""The command line: `testcluster up`, `down`, `images`, and faults for tests."""

import argparse
import sys

from testcluster import cluster
from testcluster.console import Error


def main() -> int:
    parser = argparse.ArgumentParser(prog="testcluster", description="A Kubernetes cluster for tests on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the cluster, or what is missing of it")
    commands.add_parser("down", help="remove it without a trace; binaries and images stay in the cache")
    for name in ("fail-node", "heal-node"):
        commands.add_parser(name, help="cut a node off" if name == "fail-node" else "connect it again").add_argument("node")
    arguments = parser.parse_args()
    match arguments.command:
        case "up":
            cluster.up()
        case "down":
            cluster.down()
        case "fail-node":
            cluster.fail_node(arguments.node)
        case "heal-node":
            cluster.heal_node(arguments.node)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Error as failed:
        sys.exit(f"error: {failed}")
