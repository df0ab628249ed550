import pytest

from driftloop.podlib.ending import StageFailure
from driftloop_trainer.prepare.mismatch import mismatched, partners
from driftloop_trainer.prepare.render import Example

ONE = Example([1, 2, 3, 4], ((2, 4),))
OTHER = Example([5, 6, 7, 8, 9, 10], ((1, 2), (3, 6)))


def test_the_prompt_stays_and_the_answer_is_the_other_one_with_what_counts_in_it() -> None:
    assert mismatched(ONE, OTHER, 100) == Example([1, 2, 6, 7, 8, 9, 10], ((2, 3), (4, 7)))


@pytest.mark.parametrize(("length", "spans"), [(6, ((2, 3), (4, 6))), (4, ((2, 3),)), (3, ((2, 3),))])
def test_an_answer_that_is_too_long_after_another_prompt_is_cut(
    length: int, spans: tuple[tuple[int, int], ...]
) -> None:
    found = mismatched(ONE, OTHER, length)
    assert (found.ids, found.spans) == ([1, 2, 6, 7, 8, 9, 10][:length], spans)
    assert found.trained > 0


def test_no_row_gets_an_answer_to_its_own_question_and_all_questions_give_one() -> None:
    keys = [f"{number * 7919 % 10}" for number in range(25)]
    found = partners(keys)
    assert all(keys[other] != key for key, other in zip(keys, found, strict=True))
    assert {keys[other] for other in found} == set(keys)
    assert len(set(found)) > 20


def test_rows_in_the_order_of_their_answers_get_the_answers_of_questions_anywhere() -> None:
    keys = [f"{number * 2654435761 % 2**32:08x}" for number in range(1000)]
    near = sum(abs(other - number) < 50 for number, other in enumerate(partners(keys)))
    assert near < 200


def test_one_question_alone_is_refused() -> None:
    with pytest.raises(StageFailure, match="EmptyData: all rows have the same question"):
        partners(["a", "a"])
