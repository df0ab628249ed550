"""How many rows a training goes through and which each step takes: operator and trainer count by this. Pure."""

from dataclasses import dataclass

from driftloop.api.finetunejob import TrainingSpec


@dataclass(frozen=True, slots=True)
class Course:
    """A training as one row of places: epoch after epoch, every epoch each of `rows` once, cut into equal batches.

    What an epoch leaves over begins the next epoch's first batch, so each row counts as much as any other, and only the
    last step of all may be smaller. `rows` are sequences: what a batch counts, with packing the packs.
    """

    rows: int
    batch: int  # places a step; never more than there are rows, so a small set takes a step an epoch
    places: int  # in all

    @classmethod
    def of(cls, training: TrainingSpec, rows: int) -> "Course":
        """`maxSteps` whole batches, or `numTrainEpochs` times the rows, to the nearest row. Raises ValueError below one
        row."""
        if rows < 1:
            raise ValueError("a training needs a row")
        batch = min(training.train_batch_size, rows)
        if training.max_steps is not None:
            return cls(rows, batch, training.max_steps * batch)
        return cls(rows, batch, max(1, round(rows * training.num_train_epochs)))

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return -(-self.places // self.batch)

    @property
    def epochs(self) -> float:
        """Passes over the rows."""
        return self.places / self.rows

    def step(self, number: int) -> range:
        """Places of a step, counted from 0. Raises IndexError beyond the last one."""
        if not 0 <= number < self.steps:
            raise IndexError(f"step {number} of {self.steps}")
        return range(number * self.batch, min((number + 1) * self.batch, self.places))
