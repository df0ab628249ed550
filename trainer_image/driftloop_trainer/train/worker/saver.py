"""Writes checkpoints while training goes on: the loop waits only until its state is copied.

A thread writes the copy, with torch's `async_save`. A process for it would import torch once more in each worker, and
would need the copy in /dev/shm, which is small in a pod. The ranks' threads have a process group of their own, as the
loop's exchanges must not meet theirs. That group is gloo also on GPUs: what they exchange is on the CPU.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn, optim
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.fsspec_filesystem import FsspecWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.checkpoint.storage import WriteResult

from driftloop_trainer.train.run import START, Checkpoint, Position, Run, Superseded, plain
from driftloop_trainer.train.worker.checkpoint import causes, check_owner, state_of
from driftloop_trainer.train.worker.curve import Curve

log = logging.getLogger(__name__)

_TIMEOUT = 1800  # seconds that a checkpoint may take


class Saver:
    """Writes the checkpoints of one training, one at a time. Every rank calls its methods in the same order.

    `keep`: number of checkpoints that are kept; with `keep_best` also the one with the lowest validation loss.
    `background`: whether training goes on meanwhile. That takes memory for a copy of the weights and moments of this
    rank. `last`: the last complete one. Only rank 0 learns of new ones. `curve`: of the steps so far. That of rank 0 is
    stored with each checkpoint.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        optimizer: optim.Optimizer,
        keep: int,
        *,
        keep_best: bool = False,
        background: bool = True,
        last: Position = START,
        curve: Curve | None = None,
    ) -> None:
        self.last = last
        self._curve = Curve() if curve is None else curve  # one without rows is false
        self._run = run
        self._model = model
        self._optimizer = optimizer
        self._keep, self._keep_best = keep, keep_best
        self._background = background
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=_TIMEOUT))
        assert isinstance(group, dist.ProcessGroup)  # it is something else only for ranks outside of it
        self._group = group
        gpu = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=gpu, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=gpu
            )
        )
        self._pending: tuple[Checkpoint, Future[Any]] | None = None

    def save(self, position: Position) -> Checkpoint:
        """Begin to write a checkpoint, once the previous one is complete. Raises Superseded on every rank."""
        self.wait()
        check_owner(self._run)
        checkpoint = self._run.begin(position.step, position.skipped, position.validated)
        self._pending = checkpoint, self._start(_Writer(checkpoint, self._complete))
        if not self._background:
            self.wait()
        return checkpoint

    def amend(self, position: Position) -> None:
        """Record the validation of the checkpoint from which training resumes. Only on rank 0. Raises Superseded."""
        self._run.amend(position)

    def wait(self) -> bool:
        """Wait until the checkpoint that is being written is complete. If that fails, training goes on without it.

        Returns whether it did not fail, the same on every rank. Raises RuntimeError or TimeoutError if another rank is
        lost.
        """
        if self._pending is None:
            return True
        (checkpoint, written), self._pending = self._pending, None
        try:
            written.result(_TIMEOUT)
            return True
        except CheckpointException as error:
            if dist.get_rank() == 0:
                log.warning("%s could not be written, training goes on: %s", checkpoint.uri, causes(error))
                with suppress(Superseded):  # the next check_owner tells all ranks
                    self._run.drop(checkpoint)  # the storage may be full
            return False

    def close(self) -> None:
        """Wait for the last checkpoint, and free the memory of its copy. Raises nothing, as training has ended."""
        try:
            self.wait()
        except (RuntimeError, TimeoutError) as error:
            log.warning("the last checkpoint is not complete: %s", error)
        self._stager.close()

    def _complete(self, checkpoint: Checkpoint) -> None:
        try:
            curve = self._curve.text(checkpoint.step)
            self.last = self._run.complete(checkpoint, self._keep, curve, keep_best=self._keep_best).position
        except Superseded as superseded:  # by now; the next check_owner tells all ranks
            log.warning("%s", superseded)

    def _start(self, writer: "_Writer") -> Future[Any]:
        state = state_of(self._model, self._optimizer)
        if self._background:
            started = async_save(state, storage_writer=writer, process_group=self._group, async_stager=self._stager)
            assert isinstance(started, Future)  # other results are those of an asynchronous stager
            return started
        done: Future[Any] = Future()
        try:
            done.set_result(save(state, storage_writer=writer, process_group=self._group))
        except CheckpointException as error:
            done.set_exception(error)
        return done


class _Writer(FsspecWriter):
    """Writes a checkpoint, and calls `complete` on rank 0 after all ranks have written their parts."""

    def __init__(self, checkpoint: Checkpoint, complete: Callable[[Checkpoint], None]) -> None:
        super().__init__(plain(checkpoint.uri))
        self._checkpoint = checkpoint
        self._complete = complete

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        """Write this rank's part. If the storage fails, raise its error.

        torch raises "unexpected pos 704 vs 598" after a disk that is full (not reported).
        """
        try:
            return super().write_data(plan, planner)
        except Exception as error:
            if (behind := _error_of_storage(error)) is not None:
                raise behind from error
            raise

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Complete the checkpoint. torch calls it on rank 0 after all ranks have written, and tells all if it fails."""
        super().finish(metadata, results)
        self._complete(self._checkpoint)


def _error_of_storage(error: BaseException) -> OSError | None:
    """The operating system's error that `error` followed; None if there was none."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen
