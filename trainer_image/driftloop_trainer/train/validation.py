"""What a run knows of its loss on the rows that are set aside. Pure."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Validated:
    """The validations of a run so far. Losses that are not finite are None, and never the best.

    `step`: steps that were done at the last validation; 0 before the first one. `loss`: of that validation. `best_step`
    and `best_loss`: of the one with the lowest loss. `worse`: how many validations followed the best one.
    """

    step: int = 0
    loss: float | None = None
    best_step: int = 0
    best_loss: float | None = None
    worse: int = 0

    def after(self, step: int, loss: float) -> "Validated":
        """The same after one more validation."""
        known = loss if math.isfinite(loss) else None
        if known is not None and (self.best_loss is None or known < self.best_loss):
            return Validated(step, known, step, known)
        return Validated(step, known, self.best_step, self.best_loss, self.worse + 1)

    @property
    def is_best(self) -> bool:
        """Whether the last validation has the lowest loss."""
        return self.step == self.best_step > 0

    @property
    def losses(self) -> dict[str, float]:
        """The last and the best loss, by these names, without those that are unknown."""
        both = {"last": self.loss, "best": self.best_loss}
        return {name: loss for name, loss in both.items() if loss is not None}

    def dump(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


NONE = Validated()
