"""The training loop of one worker, from a sharded model to the last step. Independent of Ray."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch.optim import Optimizer

from driftloop.api.finetunejob import GradientReduction, TrainingSpec
from driftloop.contract.course import Course
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import Position, Run
from driftloop_trainer.train.shutdown import Worker
from driftloop_trainer.train.validation import Validated
from driftloop_trainer.train.worker.attention import attend_by_document
from driftloop_trainer.train.worker.batches import Batch, alike
from driftloop_trainer.train.worker.checkpoint import from_all_ranks, from_rank_0
from driftloop_trainer.train.worker.compiled import bucket
from driftloop_trainer.train.worker.context import part
from driftloop_trainer.train.worker.curve import Curve
from driftloop_trainer.train.worker.memory import largest, peak_memory
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.meter import Meter, Step, Trained
from driftloop_trainer.train.worker.methods.method import Method
from driftloop_trainer.train.worker.order import Order, share
from driftloop_trainer.train.worker.pipeline import staged
from driftloop_trainer.train.worker.prefetch import prefetched
from driftloop_trainer.train.worker.saver import Saver
from driftloop_trainer.train.worker.schedule import learning_rate_factor
from driftloop_trainer.train.worker.seeds import seed_of
from driftloop_trainer.train.worker.skips import Skips, diverged, shown
from driftloop_trainer.train.worker.step import NonFinite, train_step
from driftloop_trainer.train.worker.utilisation import Utilisation
from driftloop_trainer.train.worker.validate import Validator
from driftloop_trainer.train.worker.watchdog import PATIENCE, Patience, Watchdog

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Work:
    """A step of one worker: its sequences by micro-batch, and these as tensors on its device.

    `count`: what the sums of the step are divided by. `tokens`: of the step on all workers. `flops`: the same, or 0.
    """

    shares: list[list[int]]
    batches: list[Batch]
    count: int
    tokens: int
    flops: float


@dataclass(frozen=True, slots=True)
class Loop:
    """Everything that a run needs except the model. `micro_size`: maximum sequences per forward pass of a worker.

    `background`: whether training goes on while a checkpoint is written. `patience`: how long a step may take.
    `curve`: of the steps before, if the run resumes; each step is added to it. `track`: gets the same values.
    `validator`: computes the loss on the rows that are set aside; None if there are none.
    `utilisation`: measures how much of the GPUs a step uses; None if it is not known.
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
    curve: Curve = field(default_factory=Curve)
    track: Callable[[int, Mapping[str, float]], None] = lambda _step, _values: None
    validator: Validator | None = None
    utilisation: Utilisation | None = None

    def run(
        self,
        model: Any,
        optimizer: Optimizer,
        run: Run,
        first: Position,
        report: Callable[[Progress], None],
        worker: Worker | None = None,
    ) -> Trained:
        """Train from `first` to the end, with checkpoints and validations.

        Raises NonFiniteLoss, Superseded on every rank.
        `worker`: this process in a pod, which may have to stop. All ranks write a checkpoint if any of them must stop.
        If any of them must resize, all return after the next checkpoint.
        """
        dataset = self.method.dataset
        validates_packed = self.validator is not None and self.validator.method.packed
        if self.method.packed or self.mesh.context or validates_packed:
            attend_by_document(model)
        order = Order(dataset.lengths, Course.of(self.training, len(dataset)), self.training.seed)
        works = prefetched(lambda step: self._work(order.batch(step)), range(first.step, self.total_steps))
        keep = self.training.save_total_limit
        saver = Saver(
            run,
            model,
            optimizer,
            keep,
            keep_best=self.keeps_best,
            background=self.background,
            last=first,
            curve=self.curve,
        )
        watchdog = Watchdog(self.patience)
        with closing(saver), closing(works), closing(watchdog):
            model.train()
            computed = staged(model, self.mesh, len(self.method.measures), bf16=bool(self.training.bf16))
            return _Steps(self, computed, optimizer, saver, watchdog, report, worker).run(works, first)

    @property
    def keeps_best(self) -> bool:
        """Whether the weights with the lowest validation loss are wanted."""
        return self.validator is not None and self.validator.settings.keep == "best"

    def _work(self, rows: Any) -> _Work:
        mesh, method = self.mesh, self.method
        shares = share(rows, method.dataset.lengths, mesh.data_rank, mesh.data_size, self.micro_size)
        collated = [method.batch(indices) for indices in shares]
        if self.training.compile:
            collated = [batch.filled(batch.ids.shape[0], bucket(batch.ids.shape[1])) for batch in collated]
        if mesh.pipeline:
            collated = alike(collated)
        parts = [part(batch, mesh.context) for batch in collated] if mesh.context else collated
        batches = [batch.to(self.device) for batch in parts]
        flops = self.utilisation.flops_of(method.dataset, rows) if self.utilisation else 0.0
        return _Work(shares, batches, max(1, method.count(rows)), int(method.dataset.lengths[rows].sum()), flops)


@dataclass(slots=True)
class _Steps:
    """The steps of one process, and what it keeps from one to the next."""

    loop: Loop
    model: Any  # as `staged` returns it
    optimizer: Optimizer
    saver: Saver
    watchdog: Watchdog
    report: Callable[[Progress], None]
    worker: Worker | None
    meter: Meter = field(init=False)
    skips: Skips = field(init=False)
    validated: Validated = field(init=False)
    resized: bool = False  # whether the workers are to start again on more nodes, from a checkpoint that is complete

    def run(self, works: Iterable[_Work], first: Position) -> Trained:
        peak = self.loop.utilisation.peak if self.loop.utilisation else None
        self.meter, self.skips = Meter(self.loop.total_steps, peak), Skips(first.skipped)
        self.validated, position = first.validated, first
        self._validate_checkpoint(first)
        started = time.monotonic()
        self.watchdog.begin(first.step + 1)
        for step, work in enumerate(takewhile(lambda _: not self._is_over() and not self.resized, works), first.step):
            loss = self._train(step, work)
            self.meter.add(Step(loss, time.monotonic() - started, work.tokens, work.flops))
            self._record(step + 1)
            self.report(self.meter.progress(self._position(step + 1), self.saver.last))
            position = self._agree_and_save(step + 1)
            started = time.monotonic()
            self.watchdog.begin(step + 2)  # with the wait for its rows
        return replace(self.meter.trained(position), resized=self.resized)

    def _record(self, step: int) -> None:
        measured = self.meter.measured(self.optimizer.param_groups[0]["lr"])
        self.loop.curve.add(step, measured)
        self.loop.track(step, measured)

    def _train(self, step: int, work: _Work) -> float:
        """Returns the loss, or NaN if the step was skipped. Raises NonFiniteLoss after too many skips."""
        loop = self.loop
        self._set_rate(step)
        # Of an adapter's dropout: other cells in each stage and row and at each step, the same after a restart.
        torch.manual_seed(seed_of(loop.training.seed, step, loop.mesh.row))
        try:
            loss, *measured = train_step(
                self.model,
                self.optimizer,
                loop.mesh,
                work.batches,
                work.count,
                loop.training.max_grad_norm,
                loop.reduction,
                loop.method.step_sums(self.model, work.batches, work.count),
            )
        except NonFinite as error:
            self.skips = self.skips.after(skipped=True)
            self._report_skip(step, error, work.shares)
            return math.nan
        self.skips = self.skips.after(skipped=False)
        self.meter.reward = dict(zip(loop.method.measures, measured, strict=True))
        return loss

    def _position(self, step: int) -> Position:
        return Position(step, self.skips.count, validated=self.validated)

    def _is_over(self) -> bool:
        """Whether the training stops before its last step."""
        validator = self.loop.validator
        return validator is not None and validator.is_over(self.validated)

    def _validate(self, step: int) -> bool:
        """Validate after `step` steps, if it is due. Returns whether the loss is the lowest so far, and to be kept."""
        validator = self.loop.validator
        if validator is None or not validator.is_due(step, self.loop.total_steps, self.validated):
            return False
        self.watchdog.begin(step, "validation")
        loss = validator.loss(self.model, self.watchdog.next)
        self.watchdog.end()
        self.validated = self.validated.after(step, loss)
        return self.loop.keeps_best and self.validated.is_best

    def _validate_checkpoint(self, first: Position) -> None:
        """Validate what was loaded: a worker that had to stop wrote its checkpoint first."""
        if self._validate(first.step):
            from_rank_0(partial(self.saver.amend, replace(first, validated=self.validated)))

    def _agree_and_save(self, step: int) -> Position:
        """Agree with the other ranks on the peak of memory and on whether to stop; validate and save if it is time."""
        loop, worker = self.loop, self.worker
        must_stop = worker is not None and worker.must_stop()
        must_resize = worker is not None and worker.must_resize()
        used = peak_memory(loop.device)
        stopping, resizing, *most = largest([must_stop, must_resize, *used.values()], loop.device)
        self.meter.peak = dict(zip(used, most, strict=True))
        self.watchdog.end()
        best = not stopping and self._validate(step)
        position = self._position(step)
        if self.validated.step == step:
            loss = {"validation_loss": self.validated.losses.get("last", math.nan)}
            loop.curve.extend(loss)
            loop.track(step, loss)
            self.report(self.meter.progress(position, self.saver.last))
        due = stopping or best or step % loop.training.save_steps == 0
        if due and step < loop.total_steps and not self._is_over():
            self.saver.save(position)
            self.resized = bool(resizing) and self.saver.wait()
        if stopping:
            self.saver.wait()
        if worker is not None and must_stop:
            worker.release()
        return position

    def _report_skip(self, step: int, error: NonFinite, mine: list[list[int]]) -> None:
        """Log the rows of this rank that may be at fault. Raises NonFiniteLoss on every rank after too many skips."""
        suspects = [mine[number] for number in error.micro_batches] or mine
        names = self.loop.method.dataset.rows([index for indices in suspects for index in indices])
        log.warning("step %d was skipped and changed no weight: %s. Rows here: %s", step + 1, error, shown(names))
        if self.skips.too_many(self.loop.total_steps):
            raise diverged(self.skips, str(error), from_all_ranks(names))

    def _set_rate(self, step: int) -> None:
        training = self.loop.training
        factor = learning_rate_factor(training.lr_scheduler_type, step, self.loop.total_steps, training.warmup_ratio)
        for group in self.optimizer.param_groups:
            group["lr"] = training.learning_rate * factor


def build_optimizer(model: Any, training: TrainingSpec) -> torch.optim.AdamW:
    """AdamW over the trained parameters. As in transformers' Trainer, norms and biases have no weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=training.learning_rate, fused=True)
