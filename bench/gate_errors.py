"""How often a retention gate passes a version with a loss of delta, and how often an equal version. Exact.

    PYTHONPATH=operator python bench/gate_errors.py [--delta 0.05] [--look 1]

Each row has the total probability of the outcomes of n independent items with which the gate passes: for a version
whose true accuracy is delta below stable's, the maximum over shares of gained items from 0 to 10 %; and for an equally
good version, with 0, 5 and 10 % of the items gained and as many lost.
"""

import argparse
import math

from driftloop.contract.bounds import paired_difference
from driftloop.contract.looks import alpha_of

ITEMS = (50, 75, 100, 150, 200, 300, 500, 1000, 2000)
GAINING = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1)
EQUAL = (0.0, 0.05, 0.1)


def pass_rate(items: int, delta: float, gaining: float, losing: float, alpha: float) -> float:
    """The probability that the gate passes, for these true shares of gained and lost items."""
    among_kept = gaining / (1 - losing)
    total = 0.0
    for lost in _likely(items, losing):
        for gained in _likely(items - lost, among_kept):
            if paired_difference(items, items, gained, lost, 0.0, alpha).excludes_loss(delta):
                total += _binomial(items, lost, losing) * _binomial(items - lost, gained, among_kept)
    return total


def _likely(n: int, p: float) -> range:
    """The counts without the improbable ones, which have a total probability of less than one in a million."""
    spread = 5 * math.sqrt(n * p * (1 - p)) + 5
    return range(max(0, int(n * p - spread)), min(n, int(n * p + spread)) + 1)


def _binomial(n: int, k: int, p: float) -> float:
    if p == 0:
        return float(k == 0)
    logarithm = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(logarithm + k * math.log(p) + (n - k) * math.log1p(-p))


def main() -> None:
    """Print the table. Fails if a loss of delta passes with a probability of more than the look's share of the 5 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delta", type=float, default=0.05, help="the loss that the suite accepts (0.05)")
    parser.add_argument("--look", type=int, default=1, help="number of the look at the items (1)")
    options = parser.parse_args()
    delta, alpha = options.delta, alpha_of(options.look)
    print(
        f"delta {delta}, look {options.look} with {alpha:.2%}: how often a version with a loss of delta passes, and an "
        "equal version"
    )
    print("items   lost delta   " + "   ".join(f"equal, {share:.0%} gained" for share in EQUAL))
    worst = 0.0
    for items in ITEMS:
        errors = max(pass_rate(items, delta, gaining, gaining + delta, alpha) for gaining in GAINING)
        equal = [pass_rate(items, delta, share, share, alpha) for share in EQUAL]
        print(f"{items:5}   {errors:10.2%}   " + "   ".join(f"{share:16.1%}" for share in equal), flush=True)
        worst = max(worst, errors)
    assert worst <= alpha, f"a loss of delta passes with a probability of {worst:.2%}"


if __name__ == "__main__":
    main()
