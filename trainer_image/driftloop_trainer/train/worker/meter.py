"""What a training reports of itself: loss and speed of its last steps, tokens, and the peak of memory."""

import math
import time
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import START, Position

_RECENT = 20  # steps over which loss and speed are averaged


class Step(NamedTuple):
    """`loss`: NaN if the step was skipped. `tokens`: of the step on all workers. `flops`: the same, if it is known."""

    loss: float
    seconds: float
    tokens: int
    flops: float = 0.0


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a finished loop: mean loss of the last steps, tokens per second, and seconds since its start.

    `resized`: whether it ended after a checkpoint, as there are more nodes.
    `end`: how far the run is, with the steps that were skipped, and its validations.
    `peak_memory`: see `peak_memory`, the largest over all ranks. `reward`: the measures of the last step, if any.
    `mfu`: model FLOPs utilisation over all steps; None if it is not known (utilisation.py).
    """

    loss: float
    tokens_per_second: float
    seconds: float
    end: Position = START
    peak_memory: dict[str, int] = field(default_factory=dict)
    reward: dict[str, float] = field(default_factory=dict)
    resized: bool = False
    mfu: float | None = None


class Meter:
    """Measures the steps of one process's loop, which begins now.

    `peak_flops`: FLOP/s of all workers' GPUs; None if it is not known.
    """

    def __init__(self, total_steps: int, peak_flops: float | None = None) -> None:
        self._total = total_steps
        self._peak_flops = peak_flops
        self._begun = time.monotonic()
        self._recent: deque[Step] = deque(maxlen=_RECENT)
        self._tokens = 0
        self._flops = 0.0
        self.peak: dict[str, int] = {}  # of the steps before, as the ranks agree on it after a step
        self.reward: dict[str, float] = {}

    def add(self, step: Step) -> None:
        self._recent.append(step)
        self._tokens += step.tokens
        self._flops += step.flops

    def progress(self, position: Position, last: Position) -> Progress:
        """Progress after at least one step. `last`: of the last checkpoint."""
        seconds = sum(step.seconds for step in self._recent)
        return Progress(
            step=position.step,
            total=self._total,
            loss=self._recent[-1].loss,
            tokens_per_second=sum(step.tokens for step in self._recent) / max(seconds, 1e-9),
            eta_seconds=(self._total - position.step) * seconds / len(self._recent),
            skipped=position.skipped,
            peak_memory=self.peak,
            checkpoint_step=last.step,
            checkpoint_time=last.saved,
            validation=position.validated.losses,
            best_step=position.validated.best_step,
            reward=self.reward,
            mfu=self._mfu(sum(step.flops for step in self._recent), seconds),
        )

    def measured(self, learning_rate: float) -> dict[str, float]:
        """What the last step measured, for the curve. A skipped step has no rewards."""
        step = self._recent[-1]
        rewards = {f"reward_{kind}": value for kind, value in self.reward.items()} if math.isfinite(step.loss) else {}
        speed = step.tokens / max(step.seconds, 1e-9)
        return {"loss": step.loss, **rewards, "learning_rate": learning_rate, "tokens_per_second": speed}

    def trained(self, end: Position) -> Trained:
        seconds = time.monotonic() - self._begun
        losses = [step.loss for step in self._recent if math.isfinite(step.loss)]
        loss = fmean(losses) if losses else 0.0
        return Trained(
            loss,
            self._tokens / max(seconds, 1e-9),
            seconds,
            end,
            self.peak,
            self.reward,
            mfu=self._mfu(self._flops, seconds),
        )

    def _mfu(self, flops: float, seconds: float) -> float | None:
        return None if self._peak_flops is None else flops / max(seconds, 1e-9) / self._peak_flops
