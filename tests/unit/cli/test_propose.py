"""`driftloop propose` with a real git and a real remote."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from driftloop.cli import gitsteps
from driftloop.cli.gitsteps import Forge, Proposal
from driftloop.cli.main import main
from unit.cli.test_pinning import SERVICE, V

BRANCH = f"driftloop/{V}"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone like that of a CI system: a detached HEAD, and no user."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    author = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "remote")
    git(tmp_path, "clone", "-q", "remote", "work")
    folder = tmp_path / "work"
    (folder / "deploy").mkdir()
    (folder / "deploy/service.yaml").write_text(SERVICE)
    git(folder, "add", ".")
    git(folder, *author, "commit", "-qm", "first")
    git(folder, "push", "-q", "origin", "HEAD:main")
    git(folder, "checkout", "-q", "--detach")
    return folder


def propose(checkout: Path, *options: str) -> int:
    return main(["propose", "-f", str(checkout / "deploy/service.yaml"), "--version", V, *options])


def test_the_pin_is_pushed_on_a_branch_of_its_own(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "lineage.txt").write_text("asked for by Drift")
    assert propose(checkout, "--body-file", str(checkout / "lineage.txt")) == 0
    assert capsys.readouterr().out == f"Serve {V}: {BRANCH}\n"
    remote = checkout.parent / "remote"
    assert git(remote, "diff", "main", BRANCH, "--stat").splitlines()[-1].strip() == "1 file changed, 1 insertion(+)"
    assert git(remote, "log", "-1", "--format=%an %s %b", BRANCH) == f"driftloop Serve {V} asked for by Drift"


@pytest.mark.parametrize("branch", [None, "main"])
def test_a_repeated_step_replaces_the_branch(checkout: Path, branch: str | None) -> None:
    if branch:
        git(checkout, "checkout", "-q", "-B", branch)
    assert propose(checkout) == 0
    assert git(checkout, "branch", "--show-current") == (branch or "")
    assert git(checkout, "status", "--porcelain") == ""
    assert propose(checkout) == 0
    assert git(checkout.parent / "remote", "rev-list", "--count", f"main..{BRANCH}") == "1"


@pytest.mark.parametrize("forge", ["push", "direct"])
def test_a_step_whose_push_failed_is_repeated_whole(checkout: Path, forge: Forge) -> None:
    note = checkout / "deploy/note.txt"
    note.write_text("of somebody else, not committed")
    assert propose(checkout, "--forge", forge, "--remote", "nowhere") == 1
    assert (checkout / "deploy/service.yaml").read_text() == SERVICE
    assert git(checkout, "log", "-1", "--format=%s") == "first"
    assert propose(checkout, "--forge", forge) == 0
    target = "main" if forge == "direct" else BRANCH
    assert git(checkout.parent / "remote", "log", "-1", "--format=%s", target) == f"Serve {V}"
    assert note.exists()


def test_a_version_that_is_pinned_already_is_not_proposed(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert propose(checkout, "--forge", "direct") == 0
    assert git(checkout.parent / "remote", "log", "-1", "--format=%s", "main") == f"Serve {V}"
    assert propose(checkout, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["changed"] is False
    assert git(checkout.parent / "remote", "branch", "--list", BRANCH) == ""


def test_a_push_that_is_refused_fails_with_gits_message(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert propose(checkout, "--remote", "nowhere") == 1
    assert "error: git push: " in capsys.readouterr().err


def test_a_pull_request_is_opened_once(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for GitHub's client that notes its arguments."""
    calls, tools = checkout.parent / "calls", checkout.parent / "tools"
    tools.mkdir()
    (tools / "gh").write_text(f'#!/bin/sh\n[ "$2" = list ] && cat {calls}; echo "$2 $4" >> {calls}\n')
    (tools / "gh").chmod(0o755)
    calls.write_text("")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    assert propose(checkout, "--forge", "github") == 0
    assert calls.read_text() == f"list {BRANCH}\ncreate main\n"
    assert propose(checkout, "--forge", "github") == 0
    assert calls.read_text().count("create") == 1


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        ("gitlab", ["merge_request.create", "merge_request.target=main", f"merge_request.title=Serve {V}"]),
        ("direct", ["HEAD:refs/heads/main"]),
        ("push", ["origin", BRANCH]),
    ],
)
def test_how_a_change_is_pushed(forge: Forge, words: list[str]) -> None:
    proposal = Proposal("a.yaml", V, BRANCH, "main", "origin", forge, "a <b>", "")
    assert set(words) <= set(gitsteps.push(proposal))
    assert gitsteps.open_change(proposal) == []
