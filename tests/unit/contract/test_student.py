import math

import pytest
from scipy import stats

from driftloop.contract.student import t_quantile


# Published tables, to the digits that they give.
@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 6.314), (2, 2.920), (3, 2.353), (4, 2.132), (5, 2.015), (10, 1.812), (30, 1.697), (100, 1.660)],
)
def test_quantiles_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize("tail", [0.05, 0.0304, 0.001, 1e-6])
def test_quantiles_are_scipys(tail: float) -> None:
    """Also where the series ends and the expansion begins."""
    for degrees in (*range(1, 40), 300, 499, 500, 501, 10**5, 10**9):
        assert t_quantile(degrees, tail) == pytest.approx(float(stats.t.isf(tail, degrees)), rel=1e-10)


def test_nothing_is_known_without_a_degree_of_freedom() -> None:
    assert t_quantile(0) == math.inf
