"""Pins a version in a file, for Git and Argo CD: `driftloop pin`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from driftloop.cli.exits import HELP, Exit
from driftloop.cli.manifests import BadInput, read_text
from driftloop.cli.options import add_output, version_name
from driftloop.cli.output import print_result
from driftloop.cli.pinning import pinned
from driftloop.cli.program import usage


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the file. Returns the exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    version = parsed.version
    path = Path(parsed.filename)
    try:
        before = read_text(parsed.filename)
        after = pinned(before, parsed.service, version, parsed.filename)
    except BadInput as error:
        parser.error(str(error))
    changed = after != before
    if changed:
        path.write_text(after)
    message = f"{path}: {'pins' if changed else 'pinned already:'} {version}"
    print_result(parsed.output, message, {"file": str(path), "version": version, "changed": changed})
    return Exit.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=usage("pin"),
        description="Sets spec.model.version in the manifest of an InferenceService, and leaves everything else in the "
        "file as it is, with its comments. It needs no cluster: commit the change, and Argo CD or Flux applies it.",
        epilog=HELP,
    )
    parser.add_argument("-f", "--filename", required=True, metavar="FILE", help="YAML file with the InferenceService")
    parser.add_argument(
        "--version", required=True, type=version_name, metavar="VERSION", help="name of the ModelVersion to serve"
    )
    parser.add_argument("--service", metavar="NAME", help="the InferenceService, if the file has several")
    add_output(parser)
    return parser
