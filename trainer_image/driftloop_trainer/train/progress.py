"""The progress of a run, also for the board's process, which does not wait for torch."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `step` counts completed steps. Speed and remaining time are estimated from the last steps.

    `skipped`: those of the steps that changed no weight. `loss` is not a number after such a step.
    `reward`: its accuracy and margin in the last step, for dpo and kto; else empty.
    `peak_memory`: the most bytes that one worker has used so far, by what they are; empty until the first step is done.
    `validation`: the last and the best loss on the rows that are set aside, by these names; empty before a validation.
    `best_step`: steps that were done at the validation with the lowest loss; 0 before the first one.
    `mfu`: model FLOPs utilisation of the last steps; None if it is not known (worker/utilisation.py).
    `checkpoint_step`, `checkpoint_time`: of the last complete checkpoint, in Unix seconds; 0 without one.
    """

    step: int
    total: int
    loss: float
    tokens_per_second: float
    eta_seconds: float
    skipped: int = 0
    reward: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    peak_memory: dict[str, int] = field(default_factory=dict)
    mfu: float | None = None
    checkpoint_step: int = 0
    checkpoint_time: float = 0.0
