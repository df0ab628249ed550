"""The gates' figures beside those of other libraries, where the same formula is meant: they agree to 1e-9.

statsmodels has clustered standard errors, Wilson's and Clopper and Pearson's intervals. evalsig has paired differences
and their smallest detectable effect. No library has Tango's score interval, so scipy solves the equations that define
it: the likelihood is maximised numerically, and not by the quadratic that the product uses.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from evalsig.inference.mde import mde, required_n
from evalsig.inference.paired import paired_t_test
from scipy import optimize, stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from driftloop.api.suite import SuiteSpec
from driftloop.contract.bounds import (
    graded_difference,
    least_items,
    paired_difference,
    share_bounds,
    wilson,
    z_quantile,
)
from driftloop.contract.looks import alpha_of
from driftloop.contract.student import t_quantile
from driftloop_trainer.evaluate.meanbounds import Sample, clustered_error
from driftloop_trainer.evaluate.statistics import Judged, suite_result

EXACT = 1e-9
ROUNDED = 1e-6  # standard errors in a result, which are rounded up to six decimals

Scores = tuple[list[float], list[float], list[str]]  # of the candidate, of the stable version, and the clusters


def scores(seed: int, graded: bool, sizes: Sequence[int]) -> Scores:
    """Answers of two versions to items in clusters of these sizes, in which they are alike."""
    rng = np.random.default_rng(seed)
    clusters = [str(cluster) for cluster, size in enumerate(sizes) for _ in range(size)]
    levels = np.repeat(rng.beta(3, 1, len(sizes)), sizes)
    if graded:
        stable, candidate = (np.clip(levels + rng.normal(0, 0.1, len(clusters)), 0, 1) for _ in range(2))
    else:
        stable, candidate = ((rng.random(len(clusters)) < levels).astype(float) for _ in range(2))
    return list(candidate), list(stable), clusters


def cases() -> Iterator[Scores]:
    rng = np.random.default_rng(1)
    for seed, graded in ((1, False), (2, True)):
        yield scores(seed, graded, [1] * 150)
        yield scores(seed, graded, list(rng.integers(1, 9, 40)))
        yield scores(seed, graded, [30, 1, 2])


CASES = list(cases())


def regression(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, float, float, float]:
    """Mean, standard error and one-sided 95 % bounds of the mean by statsmodels, with Student's t over clusters."""
    groups = np.unique(clusters, return_inverse=True)[1]
    options = {"cov_type": "cluster", "cov_kwds": {"groups": groups}, "use_t": True}
    fitted = OLS(np.asarray(values), np.ones(len(values))).fit(**options)
    low, high = fitted.conf_int(alpha=0.10)[0]
    return float(fitted.params[0]), float(fitted.bse[0]), float(low), float(high)


@pytest.mark.parametrize("case", CASES)
def test_clustered_standard_errors_are_those_of_statsmodels(case: Scores) -> None:
    candidate, stable, clusters = case
    difference = [a - b for a, b in zip(candidate, stable, strict=True)]
    for values in (candidate, difference):
        mean, error, low, high = regression(values, clusters)
        found, t = clustered_error(values, clusters), t_quantile(len(set(clusters)) - 1)
        assert found == pytest.approx(error, abs=EXACT)
        assert math.fsum(values) / len(values) == pytest.approx(mean, abs=EXACT)
        assert (mean - t * found, mean + t * found) == pytest.approx((low, high), abs=EXACT)


@pytest.mark.parametrize("case", CASES)
def test_a_suites_result_has_the_figures_of_statsmodels(case: Scores) -> None:
    candidate, stable, clusters = case
    judged = [Judged(c, a, b) for a, b, c in zip(candidate, stable, clusters, strict=True)]
    result = suite_result("s", judged)
    assert result.standard_error == pytest.approx(regression(candidate, clusters)[1], abs=ROUNDED)
    mean, error, *_ = regression([a - b for a, b in zip(candidate, stable, strict=True)], clusters)
    assert result.difference_standard_error == pytest.approx(error, abs=ROUNDED)
    assert (result.correct - (result.baseline_correct or 0)) / result.items == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if len(set(case[2])) == len(case[2])])
def test_paired_differences_of_independent_items_are_those_of_evalsig(case: Scores) -> None:
    candidate, stable, clusters = case
    found = paired_t_test(np.asarray(stable), np.asarray(candidate), alternative="greater", ci_level=0.95)
    difference = [a - b for a, b in zip(candidate, stable, strict=True)]
    error, t = clustered_error(difference, clusters), t_quantile(len(clusters) - 1)
    assert error == pytest.approx(found.sd_diff / math.sqrt(found.n_pairs), abs=EXACT)
    value = math.fsum(difference) / len(difference)
    assert value == pytest.approx(found.delta, abs=EXACT)
    assert value - t * error == pytest.approx(found.ci[0], abs=EXACT)
    assert graded_difference(value, len(clusters), error, (-1.0, 1.0)).value == pytest.approx(found.delta, abs=EXACT)


@pytest.mark.parametrize(("items", "spread"), [(60, 0.4), (500, 0.3), (2000, 0.7)])
def test_the_smallest_detectable_difference_is_evalsigs_with_the_quantile_of_t(items: int, spread: float) -> None:
    """evalsig takes the normal quantile, so it is given the error at which that is the quantile of t."""
    alpha = float(stats.norm.sf(t_quantile(items - 1)))
    expected = mde(spread, items, alpha=alpha, power=0.8, one_sided=True).mde
    found = graded_difference(0.0, items, spread / math.sqrt(items), (-0.1, 0.1)).detectable
    assert found == pytest.approx(expected, abs=EXACT)


def test_the_number_of_items_that_delta_needs_is_evalsigs() -> None:
    """5 points, a tenth of the items differ: Miller's example. Many items, so that t is nearly normal."""
    error = paired_difference(100_000, 100_000, 5_000, 5_000, 0.0)
    needed = 100_000 * (error.detectable / 0.05) ** 2
    assert needed == pytest.approx(required_n(0.05, math.sqrt(0.1), one_sided=True), abs=1)


@pytest.mark.parametrize(("items", "correct"), [(1, 0), (10, 10), (72, 3), (500, 450), (2000, 1999)])
def test_wilsons_bounds_are_those_of_statsmodels(items: int, correct: int) -> None:
    expected = proportion_confint(correct, items, alpha=0.10, method="wilson")
    assert wilson(items, correct) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("case", CASES[:2])
def test_the_bounds_of_a_share_are_the_wider_ones_of_statsmodels(case: Scores) -> None:
    values, _, clusters = case
    low, high = proportion_confint(sum(values), len(values), alpha=0.10, method="wilson")
    _, error, least, most = regression(values, clusters)
    found = share_bounds(len(values), len(set(clusters)), sum(values), error)
    assert error > 1 / (len(set(clusters)) + 2)
    assert found == pytest.approx((max(0.0, min(low, least)), min(1.0, max(high, most))), abs=EXACT)


@pytest.mark.parametrize(("items", "right"), [(59, 59), (60, 30), (400, 377)])
def test_the_bound_of_a_mean_score_is_clopper_and_pearsons_for_scores_of_0_and_1(items: int, right: int) -> None:
    bound = float(proportion_confint(right, items, alpha=0.10, method="beta")[0])
    sample = Sample.of([1.0] * right + [0.0] * (items - right), [str(n) for n in range(items)])
    assert sample.shows_above(bound - EXACT, 0.0)
    assert not sample.shows_above(bound + EXACT, 0.0)


@pytest.mark.parametrize("delta", [0.2, 0.05, 0.01])
def test_the_fewest_graded_items_are_those_of_which_clopper_and_pearson_exclude_delta(delta: float) -> None:
    suite = SuiteSpec.model_validate(
        {"name": "s", "kind": "retention", "items": "data", "delta": delta, "metric": {"type": "chrf"}}
    )
    least = least_items(suite) or 0
    lost = [1 - proportion_confint(n, n, alpha=2 * alpha_of(1), method="beta")[0] for n in (least - 1, least)]
    assert lost[0] >= delta > lost[1]
    detectable = graded_difference(0.0, least, 0.0, (0.0, 0.0), alpha_of(1)).detectable
    assert detectable == pytest.approx(lost[1], abs=EXACT)


def tango(items: int, gained: int, lost: int, t: float) -> float:
    """The lower bound of the difference by its definition, with half an item taken for continuity.

    It is the difference whose score statistic is `t`. The statistic's variance has the share of lost items that is
    likeliest for this difference: where the derivative of the multinomial log-likelihood is 0.
    """

    def likeliest(difference: float) -> float:
        def slope(share: float) -> float:
            others = (items - gained - lost) / (1 - 2 * share - difference)
            return (gained / (share + difference) if gained else 0.0) + (lost / share if lost else 0.0) - 2 * others

        low, high = max(0.0, -difference), (1 - difference) / 2
        inside = (high - low) * 1e-9
        return float(optimize.brentq(slope, low + inside, high - inside, xtol=1e-15, rtol=1e-14))

    def excess(difference: float) -> float:
        share = likeliest(difference)
        variance = items * (2 * share + difference - difference**2)
        return (gained - lost - items * difference - 0.5) / math.sqrt(variance) - t

    return float(optimize.brentq(excess, -0.9, (gained - lost) / items, xtol=1e-13, rtol=1e-14))


@pytest.mark.parametrize(("items", "gained", "lost"), [(40, 3, 9), (200, 10, 14), (200, 1, 30), (2000, 300, 90)])
def test_the_bounds_of_a_paired_difference_solve_tangos_equation(items: int, gained: int, lost: int) -> None:
    found = paired_difference(items, items, gained, lost, 0.0)
    t = float(stats.t.isf(0.05, items - 1))
    assert found.lower == pytest.approx(tango(items, gained, lost, t), abs=EXACT)
    assert found.upper == pytest.approx(-tango(items, lost, gained, t), abs=EXACT)


@pytest.mark.parametrize("alpha", [0.05, 0.0304, 1e-5])
def test_the_normal_quantiles_are_scipys(alpha: float) -> None:
    assert z_quantile(alpha) == pytest.approx(float(stats.norm.isf(alpha)), abs=EXACT)
