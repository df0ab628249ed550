"""Steps that are skipped because their loss or gradient is not finite: how many are too many. Pure.

A skipped step changes no weight. One broken row must not end days of training. But a model that has diverged does not
recover, and skipping all the rows that it can't learn would give another model than the user asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure

# A broken row is rarely in three batches in a row, so after that the model itself has diverged. And ten lost steps
# change little in a training of hundreds of steps.
MOST_IN_A_ROW, MOST = 3, 10
_SHOWN = 20  # rows in a message


@dataclass(frozen=True, slots=True)
class Skips:
    """The skipped steps of a run: `count` of them in all, also before the last restart; the last ones `in_a_row`."""

    count: int = 0
    in_a_row: int = 0

    def after(self, *, skipped: bool) -> "Skips":
        """The same after one more step."""
        if not skipped:
            return replace(self, in_a_row=0)
        return Skips(self.count + 1, self.in_a_row + 1)

    def too_many(self, total_steps: int) -> bool:
        """Whether training has to end. A model of which no step was taken is not trained."""
        return self.in_a_row >= MOST_IN_A_ROW or self.count >= min(MOST, total_steps)


def diverged(skips: Skips, values: str, rows: Sequence[str]) -> StageFailure:
    """The failure that ends training after too many skips. `rows` are those of the last skipped step."""
    message = (
        f"{values}; steps skipped: {skips.count}, the last {skips.in_a_row} of them in a row. Training stopped before "
        "the weights were damaged. Lower training.learningRate or maxGradNorm, or look for broken rows. "
        f"The rows of the last step: {shown(rows)}"
    )
    return StageFailure(StageReason.NON_FINITE_LOSS, message)


def shown(rows: Sequence[str]) -> str:
    """The first rows as text for people, each once."""
    names = list(dict.fromkeys(rows))
    more = len(names) - _SHOWN
    return "; ".join([*names[:_SHOWN], *([f"{more} more"] if more > 0 else [])])
