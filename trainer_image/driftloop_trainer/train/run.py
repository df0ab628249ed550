"""The folder of a run: its checkpoints, and a fence against a driver that was replaced.

    runs/<job uid>/owner                      the token of the driver that may write
    runs/<job uid>/step-00000040-<token>/     a checkpoint; it counts if it has `complete.json`; `curve.csv` has what
                                              the steps up to it measured
    runs/<job uid>/reference.json             what the first weights computed, for methods that compare with it
    runs/<job uid>/reference-validation.json  the same for the rows that are set aside
    runs/<job uid>/starts/                    one file per start of the workers: the first step, the number of workers
    runs/<job uid>/trained.json               the model that is trained, for a job that resumes from a checkpoint

A node that is cut off may still train at the same time as its replacement. A driver takes the run over by writing its
token. Workers with another token stop at their next checkpoint, or at the end. They never write into a folder of
another token.
"""

import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import fsspec

from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.contract.uris import join
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import create_text, local_path, read_text, write_text
from driftloop_trainer.train.validation import NONE, Validated

log = logging.getLogger(__name__)

_FOLDER = re.compile(r"step-(\d{8})-[\w-]+$")
_COMPLETE, _OWNER, _STARTS = "complete.json", "owner", "starts"
_TRAINED, _CURVE = "trained.json", "curve.csv"
Rows = Literal["training", "validation"]
_REFERENCES: dict[Rows, str] = {"training": "reference.json", "validation": "reference-validation.json"}


class Superseded(StageFailure):
    """Another driver has taken the run over, so this one no longer writes or deletes."""

    def __init__(self, uri: str) -> None:
        super().__init__(StageReason.SUPERSEDED, f"another driver has taken over {uri}: this one ends", EXIT_RETRY)
        self.uri = uri
        self.args = (uri,)  # pickle rebuilds an exception from these


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is: the number of completed steps, and how many of them were skipped (worker/skips.py).

    `saved`: when a checkpoint of this position was complete, in Unix seconds. 0: unknown, or there is none.
    `uri`: the folder of that checkpoint; empty if there is none.
    `validated`: the validations up to it.
    """

    step: int = 0
    skipped: int = 0
    saved: float = field(default=0.0, compare=False)
    uri: str = field(default="", compare=False)
    validated: Validated = NONE


START = Position()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint: the number of completed steps, the URI of its folder, and what else `Position` has."""

    step: int
    uri: str
    skipped: int = 0
    saved: float = field(default=0.0, compare=False)
    validated: Validated = NONE

    @property
    def position(self) -> Position:
        """How far a run is that loads it."""
        return Position(self.step, self.skipped, self.saved, self.uri, self.validated)

    @property
    def own_loss(self) -> float | None:
        """The validation loss of its weights, if they were validated before it was written."""
        return self.validated.loss if self.validated.step == self.step else None


class Run:
    """The checkpoints of one job at `runs/<job uid>`, for the driver with `token`."""

    def __init__(self, uri: str, token: str) -> None:
        self._uri = uri
        self.token = token

    def take_over(self) -> None:
        """Become the one driver that may write, and delete what earlier drivers can't complete any more."""
        write_text(join(self._uri, _OWNER), self.token)
        complete = {checkpoint.uri for checkpoint in self.complete_checkpoints()}
        self._delete([folder for folder in self._folders() if folder.uri not in complete])

    def check_owner(self) -> None:
        """Raises Superseded if another driver has taken over."""
        if read_text(join(self._uri, _OWNER)) != self.token:
            raise Superseded(self._uri)

    def complete_checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints of all drivers, the one with the most steps first."""
        marked = [(folder, read_text(join(folder.uri, _COMPLETE))) for folder in self._folders()]
        complete = [_with_content(folder, content) for folder, content in marked if content is not None]
        return sorted(complete, key=lambda checkpoint: checkpoint.step, reverse=True)

    def has_started(self) -> bool:
        """Whether workers have started before, also those of an earlier driver."""
        return bool(self._names(join(self._uri, _STARTS)))

    def record_start(self, step: int, world_size: int, nodes: int) -> int:
        """Record that workers start from `step`. Returns the number of earlier starts. Only rank 0 calls it."""
        before = len(self._names(join(self._uri, _STARTS)))
        start = {"step": step, "worldSize": world_size, "nodes": nodes, "driver": self.token}
        write_text(join(self._uri, _STARTS, f"{before:04d}.json"), json.dumps(start))
        return before

    def describe(self, trained: dict[str, Any]) -> None:
        """Record which model is trained."""
        write_text(join(self._uri, _TRAINED), json.dumps(trained, indent=1))

    def trained(self) -> dict[str, Any] | None:
        """What was recorded by `describe`, or None."""
        content = read_text(join(self._uri, _TRAINED))
        return None if content is None else dict(json.loads(content))

    def begin(self, step: int, skipped: int = 0, validated: Validated = NONE) -> Checkpoint:
        """The checkpoint that this driver writes after `step` steps. It counts only after `complete`."""
        return Checkpoint(step, join(self._uri, f"step-{step:08d}-{self.token}"), skipped, validated=validated)

    def complete(self, checkpoint: Checkpoint, keep: int, curve: str = "", *, keep_best: bool = False) -> Checkpoint:
        """Mark a checkpoint as complete, and delete all but the `keep` latest. Raises Superseded.

        `curve`: a table of what the steps up to the checkpoint measured. It is stored with the checkpoint.
        `keep_best`: keep the one with the lowest validation loss, too.
        """
        self.check_owner()
        write_text(join(checkpoint.uri, _CURVE), curve)
        complete = replace(checkpoint, saved=time.time())
        self._mark(complete)
        kept = self.best_checkpoints()[:1] if keep_best else []
        self._delete([old for old in self.complete_checkpoints()[keep:] if old not in kept])
        return complete

    def best_checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints whose weights were validated, the one with the lowest loss first.

        Of two with the same loss the earlier one is first, as `Validated` counts.
        """
        losses = {checkpoint: checkpoint.own_loss for checkpoint in self.complete_checkpoints()}
        validated = [(loss, checkpoint.step, checkpoint) for checkpoint, loss in losses.items() if loss is not None]
        return [checkpoint for _, _, checkpoint in sorted(validated, key=lambda entry: entry[:2])]

    def amend(self, position: Position) -> None:
        """Record the validation of a complete checkpoint that was written before it. Raises Superseded."""
        self.check_owner()
        for checkpoint in self.complete_checkpoints():
            if checkpoint.step == position.step:
                self._mark(replace(checkpoint, validated=position.validated))

    def drop(self, checkpoint: Checkpoint) -> None:
        """Delete a checkpoint that can't be loaded. Raises Superseded."""
        self._delete([checkpoint])

    def drop_beyond(self, loaded: Checkpoint) -> None:
        """Delete the checkpoints with more steps than `loaded`: they could not be loaded. Raises Superseded."""
        self._delete([checkpoint for checkpoint in self.complete_checkpoints() if checkpoint.step > loaded.step])

    def reference(self, rows: Rows = "training") -> list[float] | None:
        """What `keep_reference` was given first, by this or an earlier driver; None if it was not called yet."""
        document = read_text(join(self._uri, _REFERENCES[rows]))
        return None if document is None else [float(value) for value in json.loads(document)]

    def keep_reference(self, values: Sequence[float], rows: Rows = "training") -> list[float]:
        """Keep the values for all starts of this run, unless there are some. Returns those that are kept.

        Another driver may write them too: the first weights are the same for both.
        """
        create_text(join(self._uri, _REFERENCES[rows]), json.dumps(list(values)))
        return self.reference(rows) or []

    def clear(self) -> None:
        """Delete all checkpoints, incomplete ones too, and the references. Raises Superseded."""
        self._delete(self._folders())
        for name in set(_REFERENCES.values()).intersection(self._names(self._uri)):
            _remove(join(self._uri, name))

    def _mark(self, complete: Checkpoint) -> None:
        content: dict[str, Any] = {"step": complete.step, "skipped": complete.skipped, "saved": complete.saved}
        if complete.validated != NONE:
            content["validated"] = complete.validated.dump()
        write_text(join(complete.uri, _COMPLETE), json.dumps(content))

    def _delete(self, checkpoints: list[Checkpoint]) -> None:
        """The list is older than the check: it can't name a folder of a driver that takes over after the check."""
        self.check_owner()
        for checkpoint in checkpoints:
            _remove(checkpoint.uri)

    def _folders(self) -> list[Checkpoint]:
        """All checkpoints, also incomplete ones."""
        matches = [_FOLDER.fullmatch(name) for name in self._names(self._uri)]
        return [Checkpoint(int(match[1]), join(self._uri, match[0])) for match in matches if match]

    def _names(self, uri: str) -> list[str]:
        fs, path = fsspec.core.url_to_fs(plain(uri))
        fs.invalidate_cache()
        return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False)] if fs.exists(path) else []


def curve_of(position: Position) -> str:
    """The table that was given to `complete` with the checkpoint of `position`; empty without one."""
    return (position.uri and read_text(join(position.uri, _CURVE))) or ""


def _remove(uri: str) -> None:
    fs, path = fsspec.core.url_to_fs(plain(uri))
    try:
        fs.rm(path, recursive=True)
    except OSError as error:  # a superseded driver may still be writing there
        log.warning("%s was not deleted: %s", uri, error)


def _with_content(folder: Checkpoint, content: str) -> Checkpoint:
    """The checkpoint with what its `complete.json` says. Those of older versions say less."""
    known = json.loads(content)
    validated = Validated(**known.get("validated", {}))
    return replace(
        folder, skipped=int(known.get("skipped", 0)), saved=float(known.get("saved", 0)), validated=validated
    )


def plain(uri: str) -> str:
    """The form that fsspec accepts: a mounted path, or the URI itself."""
    path = local_path(uri)
    return uri if path is None else str(path)
