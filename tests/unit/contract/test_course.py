"""`numTrainEpochs` is what is trained: every count of steps and rows comes from the same course."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.course import Course

ROWS, BATCHES = st.integers(1, 10**7), st.integers(1, 65_536)


def course(rows: int, batch: int, epochs: float = 3.0, max_steps: int | None = None) -> Course:
    return Course.of(TrainingSpec(train_batch_size=batch, num_train_epochs=epochs, max_steps=max_steps), rows)


@given(ROWS, BATCHES, st.floats(0.01, 1000))
def test_the_rows_that_are_trained_are_the_epochs_times_the_rows(rows: int, batch: int, epochs: float) -> None:
    found = course(rows, batch, epochs)
    assert abs(found.places - rows * epochs) <= 0.5 or found.places == 1
    assert (found.steps - 1) * found.batch < found.places <= found.steps * found.batch


@given(ROWS, BATCHES, st.integers(1, 1000))
def test_whole_epochs_are_whole(rows: int, batch: int, epochs: int) -> None:
    assert course(rows, batch, epochs).epochs == epochs


@given(st.integers(1, 500), st.integers(1, 600), st.floats(0.01, 20))
def test_the_steps_take_every_place_once_and_only_the_last_is_smaller(rows: int, batch: int, epochs: float) -> None:
    found = course(rows, batch, epochs)
    steps = [found.step(number) for number in range(found.steps)]
    assert [place for step in steps for place in step] == list(range(found.places))
    assert all(len(step) == found.batch for step in steps[:-1])
    with pytest.raises(IndexError, match=f"step {found.steps} of {found.steps}"):
        found.step(found.steps)


@given(ROWS, BATCHES, st.integers(1, 10**6))
def test_max_steps_are_whole_batches_whatever_the_epochs(rows: int, batch: int, max_steps: int) -> None:
    found = course(rows, batch, 0.01, max_steps)
    assert (found.steps, found.places) == (max_steps, max_steps * found.batch)


def test_a_row_more_than_a_batch_is_no_epoch_less() -> None:
    assert (course(65, 64).steps, course(65, 64).epochs) == (4, 3.0)  # 64, 64, 64 and 3 rows
    assert course(400, 64, 6).epochs == 6.0


def test_fewer_rows_than_a_batch_take_a_step_an_epoch() -> None:
    assert (course(10, 64, 5).steps, course(10, 64, 5).batch) == (5, 10)


def test_a_training_needs_a_row() -> None:
    with pytest.raises(ValueError, match="training needs at least one row"):
        course(0, 8)
