"""What a checkpoint holds: weights and moments, sharded, and independent of how many ranks wrote them."""

from contextlib import suppress
from typing import Any

import torch.distributed as dist
from torch import nn, optim
from torch.distributed.checkpoint.fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.state_dict_saver import save as save_state

from driftloop_trainer.train.run import Checkpoint, Run, Superseded, plain


def save(run: Run, step: int, model: nn.Module, optimizer: optim.Optimizer, keep: int) -> Checkpoint:
    """Write a checkpoint; every rank calls it. Then rank 0 drops all but the `keep` furthest.

    Raises Superseded on every rank.
    """
    check_owner(run)
    first = dist.get_rank() == 0
    checkpoint = run.begin(step)
    save_state(_state(model, optimizer), storage_writer=FsspecWriter(plain(checkpoint.uri)))
    if first:
        with suppress(Superseded):  # meanwhile: all ranks are told at the next look
            run.complete(checkpoint, keep)
    return checkpoint


def check_owner(run: Run) -> None:
    """Rank 0 looks whether the run is still ours, and all ranks hear of it. Raises Superseded on every rank.

    One rank that left alone would keep the others waiting in their next exchange until its time is over.
    """
    answer: list[str | None] = [None]
    if dist.get_rank() == 0:
        try:
            run.check_owner()
        except Superseded as error:
            answer = [error.uri]
    dist.broadcast_object_list(answer, src=0)
    if (uri := answer[0]) is not None:
        raise Superseded(uri)


def load(checkpoint: Checkpoint, model: nn.Module, optimizer: optim.Optimizer) -> None:
    """Put a checkpoint into model and optimizer, spread over however many ranks there are now."""
    state = _state(model, optimizer)
    load_state(state, storage_reader=FsspecReader(plain(checkpoint.uri)))
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"], options=_options()
    )


def _options() -> StateDictOptions:
    # Frozen weights are the base model's: they are read from there, not from every checkpoint.
    return StateDictOptions(ignore_frozen_params=True, strict=False)


def _state(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer, options=_options())
    return {"model": weights, "optim": moments}
