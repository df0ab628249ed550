"""Checks manifests without a cluster, or with the API server: `driftloop validate`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from driftloop.cli.exits import HELP, Exit
from driftloop.cli.faults import Fault, faults_of
from driftloop.cli.manifests import BadInput, Manifest, manifests
from driftloop.cli.notes import notes_of
from driftloop.cli.options import add_cluster, add_output
from driftloop.cli.program import usage


@dataclass(frozen=True)
class Checked:
    """An object, and what is wrong with it."""

    manifest: Manifest
    faults: tuple[Fault, ...]

    @property
    def notes(self) -> list[str]:
        """What is valid, but worth a note."""
        return [] if self.faults else notes_of(self.manifest.document)

    def lines(self) -> list[str]:
        """The object in text output."""
        if not self.faults:
            notes = [f"{self.manifest.title}: note: {note}" for note in self.notes]
            return [f"{self.manifest.title}: valid", *notes]
        return [f"{self.manifest.title}: {fault}" for fault in self.faults]

    def document(self) -> dict[str, Any]:
        """The object in JSON output."""
        manifest = self.manifest
        faults = [fault.dump() for fault in self.faults]
        identity = {"source": manifest.source, "kind": manifest.kind, "name": manifest.name}
        return {**identity, "valid": not faults, "faults": faults, "notes": self.notes}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the manifests and print what is wrong. Returns the exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        given = manifests(parsed.filename)
    except BadInput as error:
        parser.error(str(error))
    if not given:
        parser.error(f"{', '.join(parsed.filename)}: no FineTuneJob, ModelVersion or InferenceService")
    checked = [Checked(manifest, tuple(faults_of(manifest.document))) for manifest in given]
    if parsed.server and not any(entry.faults for entry in checked):
        return _with_server(parsed, checked)
    return _report(parsed, checked)


def _with_server(parsed: argparse.Namespace, checked: list[Checked]) -> int:
    from driftloop.cli.cluster import Cluster
    from driftloop.cli.session import INVALID, run_in_cluster
    from driftloop.controller.runtime.kube.api import ApiError

    async def check(cluster: Cluster, entry: Checked) -> Checked:
        document = entry.manifest.document
        metadata = {"namespace": cluster.namespace} | document["metadata"]
        try:
            await cluster.apply({**document, "metadata": metadata}, force=True, dry_run=True)
        except ApiError as error:
            if error.code not in INVALID:
                raise
            return replace(entry, faults=tuple(server_faults(error.message, error.causes)))
        return entry

    async def work(cluster: Cluster) -> Exit:
        return _report(parsed, [await check(cluster, entry) for entry in checked])

    return run_in_cluster(parsed, work)


def server_faults(message: str, causes: Sequence[Any]) -> list[Fault]:
    """The faults in the API server's answer; the message, if it names no field."""
    named = [cause for cause in causes if cause.get("field") and cause["field"] != "<nil>"]
    return [Fault(cause["field"], cause.get("message", ""), "") for cause in named] or [Fault("server", message, "")]


def _report(parsed: argparse.Namespace, checked: list[Checked]) -> Exit:
    from driftloop.cli.output import print_result

    text = "\n".join(line for entry in checked for line in entry.lines())
    wrong = any(entry.faults for entry in checked)
    if wrong and parsed.output == "text":
        print(text, file=sys.stderr)
    else:
        print_result(parsed.output, text, {"valid": not wrong, "objects": [entry.document() for entry in checked]})
    return Exit.USAGE if wrong else Exit.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=usage("validate"),
        description="Checks manifests of FineTuneJobs, ModelVersions and InferenceServices. Other kinds in the files "
        "are left out. Without --server no cluster is needed: values, required fields and unknown fields are checked. "
        "With --server the API server also checks the rules across fields, by a dry run that writes nothing.",
        epilog=HELP,
    )
    parser.add_argument(
        "-f",
        "--filename",
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help="files or folders; - reads standard input",
    )
    parser.add_argument(
        "--server",
        action="store_true",
        help="also ask the API server. The account needs the rights to create and patch the kinds in the files",
    )
    add_output(parser)
    add_cluster(parser)
    return parser
