"""Number of rows in a training, and the rows of each step. Operator and trainer both count with this. Pure."""

from dataclasses import dataclass

from driftloop.api.finetunejob import TrainingSpec


def examples_per_sequence(training: TrainingSpec) -> int:
    """Texts in a sequence of the prepared rows, without packing.

    For dpo the two answers of a pair, each after its prompt. For kto an answer and the answer of another row, each
    after the prompt of the first.
    """
    return 2 if training.method in ("dpo", "kto") else 1


def trained_examples_per_sequence(training: TrainingSpec) -> int:
    """How many of these are in the forward pass that has a gradient. It needs the memory of so many rows."""
    return 2 if training.method == "dpo" else 1


@dataclass(frozen=True, slots=True)
class Course:
    """A training as a sequence of places: the epochs in order, with each row once per epoch, cut into equal batches.

    The rows left at the end of an epoch start the first batch of the next one. So all rows count equally, and only the
    very last step may be smaller. `rows` is the number of sequences: with packing, the number of packs.
    """

    rows: int
    batch: int  # places per step; at most `rows`, so a small data set has one step per epoch
    places: int  # total number

    @classmethod
    def of(cls, training: TrainingSpec, rows: int) -> "Course":
        """A course of `maxSteps` full batches, or of `numTrainEpochs` times the rows, rounded to a row.

        Raises:
            ValueError: there is no row.
        """
        if rows < 1:
            raise ValueError("training needs at least one row")
        batch = min(training.train_batch_size, rows)
        if training.max_steps is not None:
            return cls(rows, batch, training.max_steps * batch)
        return cls(rows, batch, max(1, round(rows * training.num_train_epochs)))

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return -(-self.places // self.batch)

    @property
    def epochs(self) -> float:
        """Number of passes over the rows."""
        return self.places / self.rows

    def step(self, number: int) -> range:
        """Places of a step. Steps count from 0. Raises IndexError after the last one."""
        if not 0 <= number < self.steps:
            raise IndexError(f"step {number} of {self.steps}")
        return range(number * self.batch, min((number + 1) * self.batch, self.places))
