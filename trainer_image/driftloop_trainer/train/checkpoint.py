"""Checkpoints: sharded, independent of who wrote them, whole or absent, and fenced against a run that lives on.

    runs/<job uid>/owner                      the token of the driver that may write
    runs/<job uid>/step-00000040-<token>/     a checkpoint; it counts once `complete.json` is there
    runs/<job uid>/starts/                    one file a start of the workers: from which step, with how many

A node that is cut off may still train while its replacement does. Each driver takes the run over by writing its
token; workers of another token stop at their next checkpoint, and never write into another's folder.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import fsspec
import torch.distributed as dist
from torch import nn, optim
from torch.distributed.checkpoint.fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.state_dict_saver import save as save_state

from driftloop.contract.storage import join, local_path, read_text, write_text

_FOLDER = re.compile(r"step-(\d{8})-[\w-]+$")
_COMPLETE, _OWNER, _STARTS = "complete.json", "owner", "starts"


class Superseded(RuntimeError):
    """Another driver has taken the run over."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint: steps done, and its folder's URI."""

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

    def last(self) -> Checkpoint | None:
        """The furthest whole checkpoint, whoever wrote it."""
        return max(self._complete(), key=lambda found: found.step, default=None)

    def record_start(self, step: int, world_size: int, nodes: int) -> int:
        """Note that workers start from `step`; returns how often they started before. For rank 0."""
        before = len(self._names(join(self._uri, _STARTS)))
        start = {"step": step, "worldSize": world_size, "nodes": nodes, "driver": self.token}
        write_text(join(self._uri, _STARTS, f"{before:04d}.json"), json.dumps(start))
        return before

    def save(self, step: int, model: nn.Module, optimizer: optim.Optimizer, keep: int) -> Checkpoint:
        """Write a checkpoint; every rank calls it. Then rank 0 drops all but the `keep` furthest. Raises Superseded."""
        if dist.get_rank() == 0 and read_text(join(self._uri, _OWNER)) != self.token:
            raise Superseded(f"another driver took over {self._uri}")
        uri = join(self._uri, f"step-{step:08d}-{self.token}")
        save_state(_state(model, optimizer), storage_writer=FsspecWriter(_plain(uri)))
        if dist.get_rank() == 0:
            write_text(join(uri, _COMPLETE), json.dumps({"step": step}))
            self.drop_all_but(keep)
        return Checkpoint(step, uri)

    def load(self, checkpoint: Checkpoint, model: nn.Module, optimizer: optim.Optimizer) -> None:
        """Put a checkpoint into model and optimizer, spread over however many ranks there are now."""
        state = _state(model, optimizer)
        load_state(state, storage_reader=FsspecReader(_plain(checkpoint.uri)))
        set_state_dict(
            model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"], options=_options()
        )

    def drop_all_but(self, keep: int) -> None:
        """Delete the least far of the whole checkpoints. A later one than ours is never among them."""
        found = sorted(self._complete(), key=lambda checkpoint: checkpoint.step, reverse=True)
        fs, _ = fsspec.core.url_to_fs(_plain(self._uri))
        for checkpoint in found[keep:]:
            fs.rm(_path(checkpoint.uri), recursive=True)

    def _complete(self) -> list[Checkpoint]:
        folders = [(match, name) for name in self._names(self._uri) if (match := _FOLDER.fullmatch(name))]
        return [
            Checkpoint(int(match[1]), join(self._uri, name))
            for match, name in folders
            if read_text(join(self._uri, name, _COMPLETE)) is not None
        ]

    def _names(self, uri: str) -> list[str]:
        fs, path = fsspec.core.url_to_fs(_plain(uri))
        fs.invalidate_cache()
        return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False)] if fs.exists(path) else []


def _plain(uri: str) -> str:
    """What fsspec takes: a mounted path, or the URI itself."""
    path = local_path(uri)
    return uri if path is None else str(path)


def _path(uri: str) -> str:
    return str(fsspec.core.url_to_fs(_plain(uri))[1])


def _options() -> StateDictOptions:
    # Frozen weights are the base model's: they are read from there, not from every checkpoint.
    return StateDictOptions(ignore_frozen_params=True, strict=False)


def _state(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer, options=_options())
    return {"model": weights, "optim": moments}
