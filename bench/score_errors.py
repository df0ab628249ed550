"""How often a retention gate with scores between 0 and 1 passes a version with a loss of delta, and an equal version.

    PYTHONPATH=operator:trainer_image python bench/score_errors.py [--delta 0.05] [--samples 1000]

Each row draws samples of items from one kind of difference between candidate and stable version, whose true mean is
-delta, and then 0. It shows with what share of them the gate passes, by the bound that it uses and by Student's t. The
items of a cluster have the same difference. Simulated: a share of 5 % has a standard error of 0.7 points with 1,000
samples.
"""

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from driftloop.contract.looks import alpha_of
from driftloop.contract.student import t_quantile
from driftloop_trainer.evaluate.meanbounds import Sample, clustered_error

Differences = NDArray[np.float64]
World = Callable[[np.random.Generator, int, float], Differences]

CASES = (("alone", 60), ("alone", 100), ("alone", 300), ("alone", 1000), ("of 1 to 20", 60), ("of 1 to 20", 300))


def noise(rng: np.random.Generator, n: int, mean: float) -> Differences:
    """Every answer changes a little, as with chrF of two similar models."""
    return np.clip(rng.normal(mean, 0.1, n), -1, 1)


def wide(rng: np.random.Generator, n: int, mean: float) -> Differences:
    """Half of the answers are the same, the others are much better or worse."""
    return np.where(rng.random(n) < 0.5, 0.0, rng.uniform(2 * mean - 0.7, 2 * mean + 0.7, n))


def rare_losses(rng: np.random.Generator, n: int, mean: float) -> Differences:
    """Few answers are lost wholly, all others are a little better, so that the mean is the wanted one."""
    share = 0.05 - mean
    return np.where(rng.random(n) < share, -1.0, (mean + share) / (1 - share))


def rare_losses_alone(rng: np.random.Generator, n: int, mean: float) -> Differences:
    """Few answers are lost wholly and nothing else changes; with a mean of 0 as many are gained."""
    lost, gained = (-mean, 0.0) if mean else (0.02, 0.02)
    u = rng.random(n)
    return np.where(u < lost, -1.0, np.where(u > 1 - gained, 1.0, 0.0))


def judged(rng: np.random.Generator, n: int, mean: float) -> Differences:
    """A judge prefers the candidate, the stable version or neither: differences of 1, -1 and 0."""
    u, decided = rng.random(n), 0.5
    return np.where(u > decided, 0.0, np.where(u < (decided + mean) / 2, 1.0, -1.0))


def fields(rng: np.random.Generator, n: int, mean: float) -> Differences:
    """Shares of four fields of JSON that are equal; most answers agree in all of them."""
    changed = rng.random(n) < 0.3
    steps = rng.binomial(4, 0.5 + mean / 0.3 / 2, n) - 2.0
    return np.where(changed, steps / 2, 0.0)


WORLDS: tuple[World, ...] = (noise, wide, rare_losses, rare_losses_alone, judged, fields)
SIZES: dict[str, Callable[[np.random.Generator, int], NDArray[np.int64]]] = {
    "alone": lambda rng, n: np.ones(n, dtype=np.int64),
    "of 1 to 20": lambda rng, n: rng.integers(1, 21, n),
}


def passes(values: list[float], clusters: list[str], delta: float, alpha: float) -> tuple[bool, bool]:
    """Whether the gate passes, by its own bound and by Student's t."""
    mean, error, count = math.fsum(values) / len(values), clustered_error(values, clusters), len(set(clusters))
    t, sample = t_quantile(count - 1, alpha), Sample.of(values, clusters)
    usual = mean - t * error > -delta
    return sample.shows_above(-delta, -1.0, alpha), usual


def pass_rates(world: World, sizes: str, count: int, mean: float, options: argparse.Namespace) -> tuple[float, float]:
    """Shares of the samples with which the gate passes a version whose true difference is `mean`."""
    rng, found = np.random.default_rng(1), np.zeros(2)
    for _ in range(options.samples):
        repeats = SIZES[sizes](rng, count)
        values = np.repeat(world(rng, count, mean), repeats)
        clusters = np.repeat(np.arange(count), repeats).astype(str)
        found += passes(list(values), list(clusters), options.delta, alpha_of(options.look))
    own, usual = found / options.samples
    return float(own), float(usual)


def main() -> None:
    """Print the table. Fails if a loss of delta passes significantly more often than the look may err."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delta", type=float, default=0.05, help="the loss that the suite accepts (0.05)")
    parser.add_argument("--samples", type=int, default=1000, help="samples per row (1000)")
    parser.add_argument("--look", type=int, default=1, help="number of the look at the items (1)")
    options = parser.parse_args()
    print(f"{'differences':18} {'clusters':>8} {'items':11} {'lost delta':>10} {'by t':>8} {'equal':>8} {'by t':>8}")
    alpha = alpha_of(options.look)
    limit = alpha + 3 * math.sqrt(alpha * (1 - alpha) / options.samples)
    worst = 0.0
    for world in WORLDS:
        for sizes, count in CASES:
            lost = pass_rates(world, sizes, count, -options.delta, options)
            equal = pass_rates(world, sizes, count, 0.0, options)
            rates = " ".join(f"{rate:8.1%}" for rate in (*lost, *equal))
            print(f"{world.__name__:18} {count:8} {sizes:11}   {rates}", flush=True)
            worst = max(worst, lost[0])
    assert worst <= limit, f"a loss of delta passes with a probability of {worst:.2%}"


if __name__ == "__main__":
    main()
