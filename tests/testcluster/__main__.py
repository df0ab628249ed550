"""The command line: `testcluster up`, `down`, `images`, and faults for tests."""

import argparse
import json
import sys

from testcluster import cluster, images
from testcluster.console import Error


def main() -> int:
    parser = argparse.ArgumentParser(prog="testcluster", description="A Kubernetes cluster for tests on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the cluster, or what is missing of it")
    commands.add_parser("down", help="remove it without a trace; binaries and images stay in the cache")
    for name in ("fail-node", "heal-node"):
        commands.add_parser(name, help="cut a node off" if name == "fail-node" else "connect it again").add_argument("node")
    images_parser = commands.add_parser("images", help="build the images that changed and load them into the nodes")
    images_parser.add_argument("name", nargs="*", help="default: all")
    images_parser.add_argument("--json", action="store_true", help="print the references as JSON")
    arguments = parser.parse_args()
    match arguments.command:
        case "up":
            cluster.up()
        case "down":
            cluster.down()
        case "images":
            references = images.provide(arguments.name or list(images.DOCKERFILES), cluster.NODES)
            print(json.dumps(references) if arguments.json else "\n".join(references.values()))
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
