"""The git commands that propose a pinned version. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

Forge = Literal["github", "gitlab", "push", "direct"]


@dataclass(frozen=True)
class Proposal:
    """A change to propose."""

    file: str
    version: str
    branch: str
    target: str
    remote: str
    forge: Forge
    author: str  # Name <address>, used only if git has no user
    body: str

    @property
    def title(self) -> str:
        """The commit's subject, and the title of the merge request."""
        return f"Serve {self.version}"


def default_branch(version: str) -> str:
    """The branch for a version, the same each time, so that a repeated step opens no second merge request."""
    return f"driftloop/{version}"


def checkout(proposal: Proposal) -> list[str]:
    """Start the branch at the current commit; without a branch of its own, stay."""
    return [] if proposal.forge == "direct" else ["git", "switch", "--quiet", "--force-create", proposal.branch]


def undo(proposal: Proposal, commit: str, start: str) -> list[str]:
    """Go back to `start`, the branch or commit where it began; without a branch of its own, to its last `commit`."""
    if proposal.forge == "direct":
        return ["git", "reset", "--quiet", "--keep", commit]
    return ["git", "checkout", "--quiet", start]


def commit(proposal: Proposal, has_user: bool) -> list[str]:
    """Commit the file."""
    name, _, address = proposal.author.rstrip(">").partition(" <")
    user = [] if has_user else ["-c", f"user.name={name}", "-c", f"user.email={address}"]
    message = ["--message", proposal.title, *(["--message", proposal.body] if proposal.body else [])]
    return ["git", *user, "commit", "--quiet", *message, "--", proposal.file]


def push(proposal: Proposal) -> list[str]:
    """Push the commit, with GitLab's options that open a merge request."""
    match proposal.forge:
        case "direct":
            return ["git", "push", "--quiet", proposal.remote, f"HEAD:refs/heads/{proposal.target}"]
        case "gitlab":
            options = _push_options(
                "merge_request.create",
                f"merge_request.target={proposal.target}",
                f"merge_request.title={proposal.title}",
                "merge_request.remove_source_branch",
            )
            return [*_push_branch(proposal), *options, proposal.remote, proposal.branch]
        case "github" | "push":
            return [*_push_branch(proposal), proposal.remote, proposal.branch]
        case never:
            assert_never(never)


def open_change(proposal: Proposal) -> list[str]:
    """Open a pull request with GitHub's client; nothing for the other forges."""
    if proposal.forge != "github":
        return []
    where = ["--base", proposal.target, "--head", proposal.branch]
    return ["gh", "pr", "create", *where, "--title", proposal.title, "--body", proposal.body or proposal.title]


def find_change(proposal: Proposal) -> list[str]:
    """Print the address of the open pull request of the branch."""
    return ["gh", "pr", "list", "--head", proposal.branch, "--state", "open", "--json", "url", "--jq", ".[].url"]


def _push_branch(proposal: Proposal) -> list[str]:
    """A push that replaces the branch of an earlier run of the same step."""
    return ["git", "push", "--quiet", "--force"]


def _push_options(*options: str) -> Sequence[str]:
    return [word for option in options for word in ("--push-option", option)]
