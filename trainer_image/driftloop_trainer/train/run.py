"""A run's folder: whole checkpoints or none, and a fence against a driver that lives on. Imports no torch.

    runs/<job uid>/owner                      the token of the driver that may write
    runs/<job uid>/step-00000040-<token>/     a checkpoint; it counts once `complete.json` is there
    runs/<job uid>/starts/                    one file a start of the workers: from which step, with how many

A node that is cut off may still train while its replacement does. Each driver takes the run over by writing its
token; workers of another token stop at their next checkpoint or at the end, and never write into another's folder.
"""

import json
import re
from dataclasses import dataclass

import fsspec

from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.contract.uris import join
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import local_path, read_text, write_text

_FOLDER = re.compile(r"step-(\d{8})-[\w-]+$")
_COMPLETE, _OWNER, _STARTS = "complete.json", "owner", "starts"


class Superseded(StageFailure):
    """Another driver has taken the run over: this one neither writes nor deletes any more."""

    def __init__(self, uri: str) -> None:
        super().__init__(StageReason.SUPERSEDED, f"another driver has taken over {uri}: this one ends", EXIT_RETRY)
        self.uri = uri


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Steps done, and the folder's URI."""

    step: int
    uri: str


class Run:
    """The checkpoints of one job at `runs/<job uid>`, as seen by the driver with `token`."""

    def __init__(self, uri: str, token: str) -> None:
        self._uri = uri
        self.token = token

    def take_over(self) -> None:
        """Become the one driver that may write."""
        write_text(join(self._uri, _OWNER), self.token)

    def check_owner(self) -> None:
        """Raises Superseded when another driver took over."""
        if read_text(join(self._uri, _OWNER)) != self.token:
            raise Superseded(self._uri)

    def last(self) -> Checkpoint | None:
        """The furthest whole checkpoint, whoever wrote it."""
        return max(self._complete(), key=lambda found: found.step, default=None)

    def record_start(self, step: int, world_size: int, nodes: int) -> int:
        """Note that workers start from `step`; returns how often they started before. For rank 0."""
        before = len(self._names(join(self._uri, _STARTS)))
        start = {"step": step, "worldSize": world_size, "nodes": nodes, "driver": self.token}
        write_text(join(self._uri, _STARTS, f"{before:04d}.json"), json.dumps(start))
        return before

    def begin(self, step: int) -> Checkpoint:
        """Where our checkpoint after `step` steps is to be written; it does not count before `complete`."""
        return Checkpoint(step, join(self._uri, f"step-{step:08d}-{self.token}"))

    def complete(self, checkpoint: Checkpoint, keep: int) -> None:
        """Let a checkpoint that is wholly written count, and drop all but the `keep` furthest."""
        self.check_owner()
        write_text(join(checkpoint.uri, _COMPLETE), json.dumps({"step": checkpoint.step}))
        self.drop_all_but(keep)

    def drop_all_but(self, keep: int) -> None:
        """Delete the least far of the whole checkpoints, while the run is ours. Raises Superseded."""
        self.check_owner()
        found = sorted(self._complete(), key=lambda checkpoint: checkpoint.step, reverse=True)
        for checkpoint in found[keep:]:
            fs, path = fsspec.core.url_to_fs(plain(checkpoint.uri))
            fs.rm(path, recursive=True)

    def _complete(self) -> list[Checkpoint]:
        folders = [(match, name) for name in self._names(self._uri) if (match := _FOLDER.fullmatch(name))]
        return [
            Checkpoint(int(match[1]), join(self._uri, name))
            for match, name in folders
            if read_text(join(self._uri, name, _COMPLETE)) is not None
        ]

    def _names(self, uri: str) -> list[str]:
        fs, path = fsspec.core.url_to_fs(plain(uri))
        fs.invalidate_cache()
        return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False)] if fs.exists(path) else []


def plain(uri: str) -> str:
    """What fsspec takes: a mounted path, or the URI itself."""
    path = local_path(uri)
    return uri if path is None else str(path)
