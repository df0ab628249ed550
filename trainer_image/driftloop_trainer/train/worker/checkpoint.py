"""Checkpoints: sharded weights and moments, which any number of ranks can load."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn, optim
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.fsspec_filesystem import FsspecReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_state

from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.osf import kept_weights
from driftloop_trainer.train.run import Checkpoint, Position, Run, Superseded, plain
from driftloop_trainer.train.validation import Validated

log = logging.getLogger(__name__)

T = TypeVar("T")

# What reading a missing, cut or overwritten file raises. Storage clients have other exceptions for their own failures.
_DAMAGE = (FileNotFoundError, EOFError, LookupError, RuntimeError, TypeError, ValueError, UnpicklingError)


def from_rank_0(compute: Callable[[], T]) -> T:
    """What `compute` returns on rank 0, on every rank; every rank calls it. A StageFailure is raised on every rank.

    If one rank left alone, the others would wait for it in their next exchange until the timeout.
    """
    outcome: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            outcome = [compute()]
        except StageFailure as failure:
            outcome = [failure]
    dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], StageFailure):
        raise outcome[0]
    result: T = outcome[0]
    return result


def check_owner(run: Run) -> None:
    """Check whether the run is still ours. Raises Superseded on every rank."""
    from_rank_0(run.check_owner)


def from_all_ranks(own: Sequence[T]) -> list[T]:
    """What all ranks have, in the order of the ranks, each entry once; every rank calls it."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, list(own))
    return list(dict.fromkeys(entry for entries in gathered for entry in entries))


def resume(run: Run, model: nn.Module, optimizer: optim.Optimizer, other: Run | None = None) -> Position:
    """Load the checkpoint with the most steps that can be loaded; every rank calls it. Returns how far the run is.

    If the run has no checkpoint, those of `other` are used. They are only read, and neither the steps that were skipped
    there nor its validations count here.

    Raises StageFailure on every rank if there are checkpoints and none can be loaded, or the storage fails.
    """
    first = dist.get_rank() == 0
    candidates = from_rank_0(partial(_candidates, run))
    borrowed = other is not None and not candidates.uris
    if other is not None and borrowed:
        candidates = from_rank_0(partial(_candidates, other))
    for checkpoint in candidates.readable:
        try:
            load(checkpoint, model, optimizer)
        except CheckpointException as error:
            if not is_damaged(error):
                raise StageFailure(StageReason.STORAGE_UNREADABLE, causes(error), EXIT_RETRY) from error
            if first:
                log.warning("%s can't be loaded: %s", checkpoint.uri, causes(error))
            continue
        if borrowed:
            known = Validated(checkpoint.step)
            return Position(checkpoint.step, saved=checkpoint.saved, uri=checkpoint.uri, validated=known)
        if first:
            with suppress(Superseded):  # the next check_owner tells all ranks
                run.drop_beyond(checkpoint)
        return checkpoint.position
    if candidates.uris:
        message = f"no checkpoint can be loaded: {', '.join(candidates.uris)}"
        raise StageFailure(StageReason.CHECKPOINT_UNREADABLE, message, EXIT_RETRY)
    return Position()


@dataclass(frozen=True)
class Candidates:
    """The complete checkpoints: their URIs, and those with readable metadata, the one with the most steps first."""

    uris: tuple[str, ...]
    readable: tuple[Checkpoint, ...]


def _candidates(run: Run) -> Candidates:
    """The checkpoints to try. Raises StageFailure if the storage fails."""
    try:
        checkpoints = run.complete_checkpoints()
        readable = tuple(checkpoint for checkpoint in checkpoints if _has_metadata(checkpoint))
    except Exception as error:  # each storage client has its own
        message = f"the checkpoints can't be read: {error}"
        raise StageFailure(StageReason.STORAGE_UNREADABLE, message, EXIT_RETRY) from error
    return Candidates(tuple(checkpoint.uri for checkpoint in checkpoints), readable)


def _has_metadata(checkpoint: Checkpoint) -> bool:
    """Whether its metadata is intact. It is read here, as `load` would report a failure only as a text."""
    try:
        FsspecReader(plain(checkpoint.uri)).read_metadata()
    except _DAMAGE as error:
        log.warning("%s can't be loaded: rank 0: %s", checkpoint.uri, error)
        return False
    return True


def is_damaged(error: CheckpointException) -> bool:
    """Whether the checkpoint's content is at fault. If the storage is, a later try may still read all of it.

    Every rank knows the failures of all ranks, so all give the same answer.
    """
    return all(isinstance(cause, _DAMAGE) for cause, _ in error.failures.values())


def causes(error: CheckpointException) -> str:
    """The failures of all ranks as text."""
    return "; ".join(f"rank {rank}: {cause}" for rank, (cause, _) in sorted(error.failures.items()))


def load(checkpoint: Checkpoint, model: nn.Module, optimizer: optim.Optimizer) -> None:
    """Load a checkpoint into model and optimizer, sharded over the present ranks.

    Raises CheckpointException on every rank if any rank can't read its part. Weights and moments are then undefined.
    """
    weights, moments = get_state_dict(model, optimizer, options=_options())
    load_state(_stored(model, weights, moments), storage_reader=FsspecReader(plain(checkpoint.uri)))
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=_options())


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Load only the weights of a checkpoint. Raises CheckpointException on every rank, as `load` does."""
    weights = get_model_state_dict(model, options=_options())
    load_state({"model": weights}, storage_reader=FsspecReader(plain(checkpoint.uri)))
    set_model_state_dict(model, weights, options=_options())


def _options() -> StateDictOptions:
    # Frozen weights are read from the base model, so no checkpoint needs them; for those of osf see `kept_weights`.
    return StateDictOptions(ignore_frozen_params=True, strict=False)


def state_of(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Any]:
    """The parts of a checkpoint: this rank's trained weights and moments, which are not copied."""
    return _stored(model, *get_state_dict(model, optimizer, options=_options()))


def _stored(model: Any, weights: dict[str, Any], moments: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint contains: the same for each grid of workers.

    The optimizer's groups are not stored, as they differ between the stages of a pipeline: the spec has their settings.
    torch stores the moments of tied embeddings under the first of their names, but the last stage only has the second.
    """
    first_names = getattr(model, "all_tied_weights_keys", {})
    states = {first_names.get(name, name): state for name, state in moments["state"].items()}
    kept = kept_weights(model)
    return {"model": weights, "optim": {"state": states}} | ({"kept": kept} if kept else {})
