"""What a run tells of itself. Imports nothing: the board's process should not wait for torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come. `step` counts finished steps; pace and time left are those of the last steps."""

    step: int
    total: int
    loss: float
    tokens_per_second: float
    eta_seconds: float
