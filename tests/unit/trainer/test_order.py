import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.train.order import Order, share

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=80).map(np.array)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 5))
def test_each_epoch_sees_every_sequence_once(lengths: np.ndarray, batch: int, epoch: int) -> None:
    order = Order(lengths, batch, seed=1)
    first = epoch * order.steps_per_epoch
    rows = np.concatenate([order.batch(step) for step in range(first, first + order.steps_per_epoch)])
    assert sorted(rows) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 9))
def test_the_order_is_a_function_of_seed_and_step(lengths: np.ndarray, batch: int) -> None:
    one, other = Order(lengths, batch, seed=7), Order(lengths, batch, seed=7)
    steps = range(2 * one.steps_per_epoch)
    assert all((one.batch(step) == other.batch(step)).all() for step in reversed(steps))


def test_seeds_and_epochs_shuffle_differently() -> None:
    lengths = np.arange(100)
    one, other = Order(lengths, 10, seed=1), Order(lengths, 10, seed=2)
    assert list(one.batch(0)) != list(other.batch(0))
    assert list(one.batch(0)) != list(one.batch(10))


def test_batches_hold_like_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, size=2048)
    order = Order(lengths, 64, seed=0)
    padded = sum(64 * lengths[order.batch(step)].max() for step in range(order.steps_per_epoch))
    assert padded < 1.1 * lengths.sum()


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
