import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.course import Course
from driftloop_trainer.train.worker.order import Order, share

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=80).map(np.array)


EPOCHS = st.floats(0.05, 6).map(lambda epochs: round(epochs, 2))


def order_of(lengths: np.ndarray, batch: int, epochs: float = 3.0, seed: int = 1) -> tuple[Order, Course]:
    training = TrainingSpec(train_batch_size=batch, num_train_epochs=epochs)
    course = Course.of(training, len(lengths))
    return Order(lengths, course, seed), course


def trained(lengths: np.ndarray, batch: int, epochs: float) -> np.ndarray:
    order, course = order_of(lengths, batch, epochs)
    return np.concatenate([order.batch(step) for step in range(course.steps)])


@given(LENGTHS, st.integers(1, 100), st.integers(1, 5))
def test_every_sequence_is_trained_on_once_an_epoch(lengths: np.ndarray, batch: int, epochs: int) -> None:
    rows = trained(lengths, batch, epochs)
    for epoch in range(epochs):
        assert sorted(rows[epoch * len(lengths) : (epoch + 1) * len(lengths)]) == list(range(len(lengths)))
    assert len(rows) == epochs * len(lengths)


@given(LENGTHS, st.integers(1, 100), EPOCHS)
def test_a_part_of_an_epoch_is_trained_on_to_the_nearest_row(lengths: np.ndarray, batch: int, epochs: float) -> None:
    rows = trained(lengths, batch, epochs)
    assert len(rows) == max(1, round(epochs * len(lengths)))
    times = np.bincount(rows, minlength=len(lengths))
    assert times.max() - times.min() <= 1


@given(LENGTHS, st.integers(1, 9), EPOCHS)
def test_the_order_is_a_function_of_seed_and_step(lengths: np.ndarray, batch: int, epochs: float) -> None:
    (one, course), (other, _) = order_of(lengths, batch, epochs), order_of(lengths, batch, epochs)
    steps = range(course.steps)
    expected = [one.batch(step) for step in steps]
    assert all((expected[step] == other.batch(step)).all() for step in reversed(steps))


def test_seeds_and_epochs_shuffle_differently() -> None:
    lengths = np.arange(100)
    one, other = order_of(lengths, 10, seed=1)[0], order_of(lengths, 10, seed=2)[0]
    assert list(one.batch(0)) != list(other.batch(0))
    assert list(one.batch(0)) != list(one.batch(10))


@pytest.mark.parametrize("sequences", [2048, 2048 + 33])
def test_batches_hold_like_lengths(sequences: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, size=sequences)
    order, course = order_of(lengths, 64)
    padded = sum(64 * lengths[order.batch(step)].max() for step in range(course.steps))
    assert padded < 1.1 * 3 * lengths.sum()


@given(LENGTHS, st.integers(1, 5), st.integers(1, 7))
def test_ranks_share_a_batch_without_gap_or_overlap_in_as_many_microbatches(
    lengths: np.ndarray, world_size: int, micro_size: int
) -> None:
    batch = list(range(len(lengths)))
    shares = [share(batch, lengths, rank, world_size, micro_size) for rank in range(world_size)]
    assert sorted(index for mine in shares for micro in mine for index in micro) == batch
    assert len({len(mine) for mine in shares}) == 1
    assert all(len(micro) <= micro_size for mine in shares for micro in mine)


def test_ranks_get_like_work() -> None:
    lengths = np.arange(1, 65)
    tokens = [sum(lengths[i] for micro in share(range(64), lengths, r, 4, 64) for i in micro) for r in range(4)]
    assert max(tokens) - min(tokens) <= 64
