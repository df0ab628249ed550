"""What a training of the user's own gets instead of the built-in loop: data, model, progress and checkpoints."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from driftloop.contract.task import TrainTask
from driftloop.contract.uris import join
from driftloop.podlib.storage import local_path, put_file
from driftloop_trainer.dataset import FILE, IGNORED
from driftloop_trainer.folders import open_folder
from driftloop_trainer.train.base import check_tokenizer, open_base
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import START, Checkpoint, Position, Run
from driftloop_trainer.train.shutdown import Worker
from driftloop_trainer.train.tracking.choice import SENT_AGAIN, trackers_of
from driftloop_trainer.train.tracking.reporting import Reporting
from driftloop_trainer.train.worker.checkpoint import check_owner, from_rank_0, resume
from driftloop_trainer.train.worker.curve import Curve, curve_before
from driftloop_trainer.train.worker.data import shared_data
from driftloop_trainer.train.worker.memory import largest, peak_memory
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.meter import Meter, Step, Trained
from driftloop_trainer.train.worker.saver import Saver
from driftloop_trainer.wholemodel import copy_model


class Context:
    """One worker of a training. `torch.distributed` is ready, with the environment variables of torchrun.

    training: `spec.training`, with the rows per forward pass that the plan chose.
    total_steps: optimiser steps of the plan. gradient_accumulation_steps: forward passes per step and worker.
    rank, world_size, local_rank, device: of this worker.
    mesh: the workers as `compute.parallelism` divides them.
    model: folder of the base model with its weights. It is read-only.
    data: the prepared folder. dataset: its tokenised training rows; see `sequences`.
    scratch: an empty folder that the workers of this node share.
    output: an empty folder. When the function returns, it contains the trained model on rank 0: config.json and
        safetensors, as `save_pretrained` writes them. A missing tokenizer is that of the base model.
    """

    def __init__(
        self,
        task: TrainTask,
        run: Run,
        device: torch.device,
        worker: Worker,
        report: Callable[[Progress], None],
        track: Reporting,
    ) -> None:
        planned = {"per_device_train_batch_size": task.per_device_train_batch_size}
        self.training = task.training.model_copy(update=planned)
        self.total_steps = task.total_steps
        self.gradient_accumulation_steps = task.gradient_accumulation_steps
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = device
        self.mesh = Mesh.of(device.type, task.parallelism)
        self._task, self._run, self._worker, self._report = task, run, worker, report
        self.scratch, self.output, self._own = (self._shared(name) for name in ("scratch", "output", "trackers"))
        self.model = self._base()
        prepared = shared_data(task.data_uri, task.data_digest)
        self.data, self.dataset = prepared.folder, prepared.dataset(FILE)
        self.curve, self.track = Curve(), track
        self._meter = Meter(task.total_steps)
        self.begun = self._last = START
        self.restarts = self._step = 0
        self._saver: Saver | None = None
        self._stopping = self._tracked = False
        self._reported = time.monotonic()

    def sequences(self) -> list[dict[str, list[int]]]:
        """The training rows: `input_ids`, `labels` (-100 where no token counts in the loss), `completion_mask`."""
        rows = []
        for index in range(len(self.dataset)):
            ids, labels = self.dataset.ids(index).tolist(), self.dataset.labels(index).tolist()
            mask = [int(label != IGNORED) for label in labels]
            rows.append({"input_ids": ids, "labels": labels, "completion_mask": mask})
        return rows

    def resume(self, model: Any, optimizer: Any) -> int:
        """Load the last checkpoint of `save`, if there is one; every rank calls it. Returns its step, or 0.

        Weights may be sharded (FSDP2), also over another number of workers than when they were saved.
        """
        self._begin(resume(self._run, model, optimizer, self._other()))
        return self.begun.step

    def save(self, step: int, model: Any, optimizer: Any) -> None:
        """Write a checkpoint after `step` steps; every rank calls it with the same model and optimizer.

        Training may go on meanwhile. Older checkpoints than the last `training.saveTotalLimit` are deleted.
        """
        if self._saver is None:
            background, keep = self._task.checkpoints == "asynchronous", self.training.save_total_limit
            self._saver = Saver(
                self._run, model, optimizer, keep, background=background, last=self.begun, curve=self.curve
            )
        self._saver.save(Position(step))
        if self._stopping:
            self._saver.wait()
        self._saved()

    def last_folder(self) -> tuple[int, Path] | None:
        """The step and the content of the last checkpoint of `save_folder`, if there is one; every rank calls it."""
        checkpoint = from_rank_0(self._last_checkpoint)
        self._begin(START if checkpoint is None else checkpoint.position)
        return None if checkpoint is None else (checkpoint.step, self._opened(checkpoint.uri, "checkpoint"))

    def save_folder(self, step: int, folder: Path) -> None:
        """Store a folder of files as the checkpoint after `step` steps; every rank calls it.

        For libraries that write checkpoints of their own. The first worker of each node stores the files of its node.
        """
        check_owner(self._run)
        checkpoint = self._run.begin(step)
        dist.barrier()  # all workers of the node have written their files
        if self.local_rank == 0:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                put_file(path, join(checkpoint.uri, path.relative_to(folder).as_posix()))
        dist.barrier()
        if self.rank == 0:
            keep = self.training.save_total_limit
            self._last = self._run.complete(checkpoint, keep, self.curve.text(step)).position
        self._saved()

    def report(self, step: int, loss: float, tokens: int = 0, **measured: float) -> None:
        """Report a completed step: `loss` and `tokens` over all workers, and other values.

        It is shown in the job's status, and is in the curves and the trackers of `training.reportTo`. All ranks may
        call it, and that of rank 0 is shown.
        """
        self._step = step
        if self.rank != 0:
            return
        now = time.monotonic()
        self._meter.add(Step(loss, now - self._reported, tokens))
        self._reported = now
        self._meter.peak = peak_memory(self.device)
        speed = {"tokens_per_second": self._meter.measured(0.0)["tokens_per_second"]} if tokens else {}
        values = {"loss": loss, **measured, **speed}
        if not self._tracked:
            self._tracked = True
            self.track.begin(trackers_of(self._task, self.begun.step, self._own), self.curve.last(SENT_AGAIN))
        self.curve.add(step, values)
        self.track(step, values)
        self._report(self._meter.progress(Position(step), self._saver.last if self._saver else self._last))

    def must_stop(self) -> bool:
        """Whether a pod of the training is about to end, so that it is time to save; every rank calls it.

        All ranks get the same answer. Go on with the training after that: the pod ends by itself.
        """
        self._stopping = bool(largest([self._worker.must_stop()], self.device)[0])
        return self._stopping

    def trained(self) -> Trained:
        """The end of the training, for the result: waits for the last checkpoint. Every rank calls it."""
        if self._saver is not None:
            self._saver.close()
        return self._meter.trained(Position(self._step or self.begun.step))

    def _saved(self) -> None:
        if self._stopping and self._worker.must_stop():
            self._worker.release()

    def _begin(self, position: Position) -> None:
        self.begun = self._last = position
        if self.rank == 0:
            self.curve = curve_before(position)
            self.restarts = self._run.record_start(position.step, self.world_size, self._task.nodes)
        self._reported = time.monotonic()

    def _other(self) -> Run | None:
        """The run of the job of resumeFrom."""
        return Run(self._task.resume_from, self._run.token) if self._task.resume_from else None

    def _last_checkpoint(self) -> Checkpoint | None:
        runs = [self._run, *filter(None, [self._other()])]
        return next((checkpoint for run in runs for checkpoint in run.complete_checkpoints()), None)

    def _shared(self, name: str) -> Path:
        """An empty folder that the workers of this node share; every rank calls it."""
        folder = Path(tempfile.gettempdir(), f"entrypoint-{self._run.token}", name)
        if self.local_rank == 0:
            shutil.rmtree(folder, ignore_errors=True)  # an earlier start in the same pod left it
            folder.mkdir(parents=True)
        dist.barrier()
        return folder

    def _base(self) -> Path:
        model = self._task.model
        uri = model.uri or ""
        if local_path(uri) is not None and not model.bases:
            return open_base(self._task, Path())  # the driver has verified the weights
        base = self._copied(uri, "base", model.digest or model.content, model.bases)
        check_tokenizer(base, self._task)
        return base

    def _opened(self, uri: str, name: str) -> Path:
        """The folder at `uri`: the mounted one, or a copy that the workers of this node share; every rank calls it."""
        return open_folder(uri, Path(), weights=False) if local_path(uri) is not None else self._copied(uri, name)

    def _copied(self, uri: str, name: str, digest: str | None = None, bases: Sequence[str] = ()) -> Path:
        """A copy of the folder at `uri` that the workers of this node share; every rank calls it."""
        folder = self._shared(name)
        if self.local_rank == 0:
            copy_model(uri, folder, digest, bases)
        dist.barrier()
        return folder
