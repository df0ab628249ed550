"""The training loop of one worker, from a sharded model to the last step. Independent of Ray."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.optim import Optimizer

from driftloop.api.finetunejob import GradientReduction, TrainingSpec
from driftloop.contract.course import Course
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import Position, Run
from driftloop_trainer.train.shutdown import Worker
from driftloop_trainer.train.worker.attention import attend_by_document
from driftloop_trainer.train.worker.batches import Batch, alike
from driftloop_trainer.train.worker.checkpoint import from_all_ranks
from driftloop_trainer.train.worker.memory import largest, peak_memory
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.method import Method
from driftloop_trainer.train.worker.order import Order, share
from driftloop_trainer.train.worker.pipeline import staged
from driftloop_trainer.train.worker.prefetch import prefetched
from driftloop_trainer.train.worker.saver import Saver
from driftloop_trainer.train.worker.schedule import learning_rate_factor
from driftloop_trainer.train.worker.seeds import seed_of
from driftloop_trainer.train.worker.skips import Skips, diverged, shown
from driftloop_trainer.train.worker.step import NonFinite, train_step
from driftloop_trainer.train.worker.watchdog import PATIENCE, Patience, Watchdog

log = logging.getLogger(__name__)

_RECENT = 20  # steps over which loss and speed are averaged


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a finished loop: mean loss of the last steps, tokens per second, and seconds since its start.

    `skipped`: how many steps of the run were skipped, as their loss or gradient was not finite.
    `peak_memory`: see `peak_memory`, the largest over all ranks. `reward`: the measures of the last step, if any.
    """

    loss: float
    tokens_per_second: float
    seconds: float
    skipped: int = 0
    peak_memory: dict[str, int] = field(default_factory=dict)
    reward: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Work:
    """A step of one worker: its sequences by micro-batch, and these as tensors on its device.

    `count`: what the sums of the step are divided by. `tokens`: of the step on all workers.
    """

    shares: list[list[int]]
    batches: list[Batch]
    count: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Loop:
    """Everything that a run needs except the model. `micro_size`: maximum sequences per forward pass of a worker.

    `background`: whether training goes on while a checkpoint is written. `patience`: how long a step may take.
    """

    training: TrainingSpec
    method: Method
    micro_size: int
    total_steps: int
    device: torch.device
    mesh: Mesh
    reduction: GradientReduction = "step"
    background: bool = True
    patience: Patience = PATIENCE

    def run(
        self,
        model: Any,
        optimizer: Optimizer,
        run: Run,
        first: Position,
        report: Callable[[Progress], None],
        worker: Worker | None = None,
    ) -> Trained:
        """Train from `first` to the end, with checkpoints. Raises NonFiniteLoss, Superseded on every rank.

        `worker`: this process in a pod, which may have to stop. All ranks write a checkpoint if any of them must stop.
        """
        dataset = self.method.dataset
        if self.method.packed:
            attend_by_document(model)
        order = Order(dataset.lengths, Course.of(self.training, len(dataset)), self.training.seed)
        works = prefetched(lambda step: self._work(order.batch(step)), range(first.step, self.total_steps))
        keep = self.training.save_total_limit
        saver = Saver(run, model, optimizer, keep, background=self.background, last=first)
        watchdog = Watchdog(self.patience)
        with closing(saver), closing(works), closing(watchdog):
            return self._train(model, optimizer, saver, watchdog, works, first, report, worker)

    def _train(
        self,
        model: Any,
        optimizer: Optimizer,
        saver: Saver,
        watchdog: Watchdog,
        works: Iterable[_Work],
        first: Position,
        report: Callable[[Progress], None],
        worker: Worker | None,
    ) -> Trained:
        recent: deque[tuple[float, float, int]] = deque(maxlen=_RECENT)  # loss, seconds, tokens of a step
        skips = Skips(first.skipped)
        tokens, begun, peak, reward = 0, time.monotonic(), dict[str, int](), dict[str, float]()
        model.train()
        computed = staged(model, self.mesh, len(self.method.measures), bf16=bool(self.training.bf16))
        started = time.monotonic()
        watchdog.begin(first.step + 1)
        for step, work in enumerate(works, first.step):
            self._set_rate(optimizer, step)
            # Of an adapter's dropout: other cells in each stage and row and at each step, the same after a restart.
            torch.manual_seed(seed_of(self.training.seed, step, self.mesh.row))
            try:
                loss, *measured = train_step(
                    computed,
                    optimizer,
                    self.mesh,
                    work.batches,
                    work.count,
                    self.training.max_grad_norm,
                    self.reduction,
                    self.method.sums,
                )
                skips, reward = skips.after(skipped=False), dict(zip(self.method.measures, measured, strict=True))
            except NonFinite as error:
                loss, skips = math.nan, skips.after(skipped=True)
                self._report_skip(step, error, work.shares, skips)
            tokens += work.tokens
            recent.append((loss, time.monotonic() - started, work.tokens))
            progress = self._progress(Position(step + 1, skips.count), saver.last, recent, peak)
            report(replace(progress, reward=reward))
            must_stop = worker is not None and worker.must_stop()
            used = peak_memory(self.device)
            stopping, *most = largest([must_stop, *used.values()], self.device)
            peak = dict(zip(used, most, strict=True))
            watchdog.end()
            due = stopping or (step + 1) % self.training.save_steps == 0
            if due and step + 1 < self.total_steps:
                saver.save(Position(step + 1, skips.count))
            if stopping:
                saver.wait()
            if worker is not None and must_stop:
                worker.release()
            started = time.monotonic()
            watchdog.begin(step + 2)  # with the wait for its rows
        seconds = time.monotonic() - begun
        losses = [entry[0] for entry in recent if math.isfinite(entry[0])]
        loss = sum(losses) / max(1, len(losses))
        return Trained(loss, tokens / max(seconds, 1e-9), seconds, skips.count, peak, reward)

    def _report_skip(self, step: int, error: NonFinite, mine: list[list[int]], skips: Skips) -> None:
        """Log the rows of this rank that may be at fault. Raises NonFiniteLoss on every rank after too many skips."""
        suspects = [mine[number] for number in error.micro_batches] or mine
        names = self.method.dataset.rows([index for indices in suspects for index in indices])
        log.warning("step %d was skipped and changed no weight: %s. Rows here: %s", step + 1, error, shown(names))
        if skips.too_many(self.total_steps):
            raise diverged(skips, str(error), from_all_ranks(names))

    def _set_rate(self, optimizer: Optimizer, step: int) -> None:
        training = self.training
        factor = learning_rate_factor(training.lr_scheduler_type, step, self.total_steps, training.warmup_ratio)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * factor

    def _work(self, rows: Any) -> _Work:
        mesh, method = self.mesh, self.method
        shares = share(rows, method.dataset.lengths, mesh.data_rank, mesh.data_size, self.micro_size)
        collated = [method.batch(indices) for indices in shares]
        batches = [batch.to(self.device) for batch in (alike(collated) if mesh.pipeline else collated)]
        return _Work(shares, batches, max(1, method.count(rows)), int(method.dataset.lengths[rows].sum()))

    def _progress(
        self,
        position: Position,
        last: Position,
        recent: deque[tuple[float, float, int]],
        peak: dict[str, int],
    ) -> Progress:
        seconds = sum(entry[1] for entry in recent)
        return Progress(
            step=position.step,
            total=self.total_steps,
            loss=recent[-1][0],
            tokens_per_second=sum(entry[2] for entry in recent) / max(seconds, 1e-9),
            eta_seconds=(self.total_steps - position.step) * seconds / len(recent),
            skipped=position.skipped,
            peak_memory=peak,
            checkpoint_step=last.step,
            checkpoint_time=last.saved,
        )


def build_optimizer(model: Any, training: TrainingSpec) -> torch.optim.AdamW:
    """AdamW over the trained parameters. As in transformers' Trainer, norms and biases have no weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=training.learning_rate, fused=True)
