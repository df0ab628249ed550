import math

from driftloop_trainer.train.validation import Validated


def test_the_lowest_loss_is_the_best_and_what_follows_it_is_counted() -> None:
    known = Validated()
    for step, loss in ((10, 2.0), (20, 1.0), (30, 1.0), (40, 1.5)):
        known = known.after(step, loss)
    assert known == Validated(40, 1.5, best_step=20, best_loss=1.0, worse=2)
    assert not known.is_best
    assert known.after(50, 0.5) == Validated(50, 0.5, best_step=50, best_loss=0.5, worse=0)
    assert known.after(50, 0.5).is_best


def test_a_loss_that_is_not_finite_is_never_the_best() -> None:
    known = Validated().after(10, math.nan).after(20, math.inf)
    assert known == Validated(20, None, best_step=0, best_loss=None, worse=2)
    assert not known.is_best
    assert known.losses == {}
    assert known.after(30, 3.0).losses == {"last": 3.0, "best": 3.0}


def test_it_comes_back_from_a_checkpoint_with_every_bit() -> None:
    known = Validated().after(10, 1 / 3).after(20, 0.1 + 0.2)
    assert Validated(**known.dump()) == known
