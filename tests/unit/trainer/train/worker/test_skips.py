from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.train.worker.skips import MOST, MOST_IN_A_ROW, Skips, diverged, shown


def ends_after(outcomes: list[bool], total: int, before: int = 0) -> int | None:
    """The number of steps after which training ends, if it does."""
    skips = Skips(before)
    for number, skipped in enumerate(outcomes, start=1):
        skips = skips.after(skipped=skipped)
        if skipped and skips.too_many(total):
            return number
    return None


def test_three_skips_in_a_row_end_training_but_not_if_a_step_is_taken_in_between() -> None:
    assert ends_after([True, True, True], 100) == 3
    assert ends_after([True, True, False, True, True], 100) is None


def test_ten_skips_in_all_end_training_also_over_restarts() -> None:
    outcomes = [True, False] * MOST
    assert ends_after(outcomes, 100) == 2 * MOST - 1
    assert ends_after(outcomes, 100, before=MOST - 1) == 1


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_no_training_ends_well_without_a_step_that_was_taken(outcomes: list[bool]) -> None:
    if all(outcomes):
        assert ends_after(outcomes, len(outcomes)) is not None


@given(st.lists(st.booleans(), max_size=60))
def test_few_steps_are_ever_skipped(outcomes: list[bool]) -> None:
    end = ends_after(outcomes, len(outcomes))
    run = outcomes[:end]
    assert sum(run) <= MOST
    assert MOST_IN_A_ROW + 1 not in [len(part) for part in "".join("x" if s else " " for s in run).split()]


def test_the_failure_names_each_row_once_and_the_fix_before_them() -> None:
    failure = diverged(Skips(4, 3), "loss nan, gradient norm nan", ["source a, line 2", "source a, line 2"])
    assert failure.exit_code == 78
    assert failure.message.index("learningRate") < failure.message.index("source a, line 2")
    assert failure.message.count("line 2") == 1


def test_of_many_rows_the_first_are_shown() -> None:
    assert shown([f"line {n}" for n in range(25)]).endswith("; line 19; 5 more")
