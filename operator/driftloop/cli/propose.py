"""Commits a pinned version and opens the change: `driftloop propose`."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from driftloop.cli import gitsteps
from driftloop.cli.exits import HELP, Exit
from driftloop.cli.gitsteps import Forge, Proposal
from driftloop.cli.manifests import BadInput, read_text
from driftloop.cli.options import add_output, version_name
from driftloop.cli.output import print_result
from driftloop.cli.pinning import pinned
from driftloop.cli.program import usage

SECONDS = 300.0  # the longest time that git or gh may take


class Refused(Exception):
    """git or gh ended with an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Pin, commit, push, and open the change. Returns the exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        body = read_text(parsed.body_file) if parsed.body_file else ""
        before = read_text(parsed.filename)
        after = pinned(before, parsed.service, parsed.version, parsed.filename)
    except BadInput as error:
        parser.error(str(error))
    proposal = Proposal(
        file=Path(parsed.filename).name,
        version=parsed.version,
        branch=parsed.branch or gitsteps.default_branch(parsed.version),
        target=parsed.target,
        remote=parsed.remote,
        forge=parsed.forge,
        author=parsed.author,
        body=body,
    )
    if after == before:
        return _report(parsed.output, proposal, changed=False, address="")
    try:
        address = _propose(proposal, Path(parsed.filename), after)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return Exit.FAILED
    return _report(parsed.output, proposal, changed=True, address=address)


def _propose(proposal: Proposal, path: Path, text: str) -> str:
    """Write the file, and run git in its folder. Returns the address of the change, if it is known.

    The folder is left as it was, but for a commit that reached the target: else a repeated step would find the version
    pinned, and push nothing.
    """
    folder, before = path.resolve().parent, path.read_text()
    has_user = _succeeds(["git", "config", "user.email"], folder)
    commit = _run(["git", "rev-parse", "HEAD"], folder)
    start = commit if _is_detached(folder) else _run(["git", "symbolic-ref", "--short", "HEAD"], folder)
    _run(gitsteps.checkout(proposal), folder)
    try:
        path.write_text(text)
        _run(gitsteps.commit(proposal, has_user), folder)
        _run(gitsteps.push(proposal), folder)
    except Refused:
        _run(gitsteps.undo(proposal, commit, start), folder)
        path.write_text(before)
        raise
    if proposal.forge == "direct":
        return ""
    _run(gitsteps.undo(proposal, commit, start), folder)
    path.write_text(before)
    if not (create := gitsteps.open_change(proposal)):
        return ""
    return _run(gitsteps.find_change(proposal), folder) or _run(create, folder)


def _is_detached(folder: Path) -> bool:
    return not _succeeds(["git", "symbolic-ref", "--quiet", "HEAD"], folder)


def _report(output: str, proposal: Proposal, *, changed: bool, address: str) -> Exit:
    where = address or (proposal.target if proposal.forge == "direct" else proposal.branch)
    message = f"{proposal.title}: {where}" if changed else f"{proposal.file} pins {proposal.version} already"
    document = {"version": proposal.version, "changed": changed, "branch": proposal.branch, "address": address}
    print_result(output, message, document)
    return Exit.DONE


def _run(command: list[str], folder: Path) -> str:
    """Run a command and return its output. Raises Refused."""
    if not command:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - git and gh with arguments that were checked
            command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise Refused(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Refused(f"{' '.join(command[:2])} took more than {SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise Refused(f"{' '.join(command[:2])}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def _succeeds(command: list[str], folder: Path) -> bool:
    try:
        return bool(_run(command, folder))
    except Refused:
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=usage("propose"),
        description="Pins a ModelVersion in the manifest of an InferenceService, commits that on a branch, pushes the "
        "branch, and opens the change. It needs no cluster, and leaves the checkout as it was. A repeated step "
        "replaces the branch and opens no second change. If the file pins the version already, nothing is committed.",
        epilog=HELP,
    )
    parser.add_argument("-f", "--filename", required=True, metavar="FILE", help="YAML file with the InferenceService")
    parser.add_argument(
        "--version", required=True, type=version_name, metavar="VERSION", help="name of the ModelVersion to serve"
    )
    parser.add_argument("--service", metavar="NAME", help="the InferenceService, if the file has several")
    parser.add_argument(
        "--forge",
        choices=get_args(Forge),
        default="push",
        help="github: a pull request, by GitHub's client gh; gitlab: a merge request, by GitLab's push options; push: "
        "only the branch (default); direct: no branch, the commit goes to the target",
    )
    parser.add_argument("--branch", help="branch of the change (default: driftloop/VERSION)")
    parser.add_argument("--target", default="main", help="branch that the change is for (default: %(default)s)")
    parser.add_argument("--remote", default="origin", help="git remote (default: %(default)s)")
    parser.add_argument("--body-file", metavar="FILE", help="text of the change, such as the output of lineage")
    parser.add_argument(
        "--author",
        default="driftloop <driftloop@localhost>",
        metavar="NAME <ADDRESS>",
        help="author of the commit, if git has none (default: %(default)s)",
    )
    add_output(parser)
    return parser
