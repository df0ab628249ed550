import math

from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.looks import ALPHA, Look, alpha_of


def test_all_looks_together_err_in_at_most_one_of_twenty() -> None:
    spent = math.fsum(alpha_of(look) for look in range(1, 100_000))
    assert 0.9999 * ALPHA < spent < ALPHA


@given(st.integers(1, 10_000))
def test_each_later_look_has_less_than_the_one_before(look: int) -> None:
    assert 0 < Look(look).next.alpha < Look(look).alpha


def test_the_share_of_a_look_is_told_with_the_digits_that_it_needs() -> None:
    assert [Look(number).error for number in (1, 2, 3, 50)] == ["3.04 %", "0.76 %", "0.34 %", "0.0012 %"]
    assert [Look(number).certainty for number in (1, 2, 50)] == ["96.96 %", "99.24 %", "99.9988 %"]
