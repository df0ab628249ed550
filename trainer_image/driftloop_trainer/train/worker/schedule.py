"""The learning rate as a function of the step. Pure, so resuming needs no state."""

import math
from typing import Literal, assert_never

Scheduler = Literal["linear", "cosine", "constant", "one_cycle"]
_START, _END = 1 / 25, 1 / 250_000  # first and last fraction of the peak for one_cycle, as in torch's OneCycleLR


def learning_rate_factor(kind: Scheduler, step: int, total: int, warmup_ratio: float) -> float:
    """The fraction of the peak rate at `step`, from 0 to `total` - 1. It rises during the first `warmup_ratio` of them.

    one_cycle rises and falls as a cosine (Smith & Topin 2019). linear and cosine rise linearly and fall to 0.
    """
    warmup = round(total * warmup_ratio)
    if step < warmup:
        done = (step + 1) / warmup
        return _between(_START, 1.0, done) if kind == "one_cycle" else done
    done = (step - warmup) / max(1, total - warmup)
    match kind:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, 1.0 - done)
        case "cosine":
            return _between(1.0, 0.0, done)
        case "one_cycle":
            return _between(1.0, _END, done)
        case never:
            assert_never(never)


def _between(start: float, end: float, done: float) -> float:
    """A point on half a cosine from `start` to `end`. `done` is in [0, 1]."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, done))) / 2
