"""How often a canary promotes what is worse, and how soon what is as good: simulated, by the operator's own verdicts.

    PYTHONPATH=operator python bench/canary_decisions.py [--runs 200] [--seed 1]

Requests come at random, so many a second, and each goes to the candidate with its share of the traffic; every 5 s both
arms' counts are looked at, until a verdict or `--most` requests of the quieter arm.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass

import numpy as np

from driftloop.controller.kinds.inferenceservice.sequential import Answer, Tally, judge

LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Case:
    """Shares of failing requests, and how the traffic comes."""

    stable: float
    candidate: float
    margin: float
    share: float = 0.5  # of the requests that the candidate gets
    rate: float = 10.0  # requests per second, of both arms

    def __str__(self) -> str:
        return f"{self.candidate:5.1%} | {self.stable:5.1%} | {self.margin:4.0%} | {self.share:4.0%}"


CASES = (
    Case(0.0, 0.02, 0.01),
    Case(0.0, 0.03, 0.01),
    Case(0.005, 0.05, 0.01),
    Case(0.0, 0.011, 0.01),
    Case(0.005, 0.0155, 0.01),
    Case(0.0, 0.02, 0.01, share=0.1),
    Case(0.0, 0.0, 0.01),
    Case(0.0, 0.0, 0.01, share=0.1),
    Case(0.005, 0.005, 0.01),
    Case(0.005, 0.005, 0.01, share=0.1),
    Case(0.0, 0.0, 0.05, share=0.33),
    Case(0.005, 0.005, 0.05, share=0.33),
    Case(0.01, 0.08, 0.05),
    Case(0.12, 0.12, 0.1),
    Case(0.12, 0.30, 0.1),
    Case(0.0, 1.0, 0.01),
)


def decide(rng: np.random.Generator, case: Case, fewest: int, most: int) -> tuple[Answer, int]:
    """The verdict, and the quieter arm's requests by then."""
    stable, candidate = Tally(0, 0), Tally(0, 0)
    while (quieter := int(min(stable.total, candidate.total))) < most:
        came = rng.poisson(case.rate * LOOK_SECONDS * np.array([1 - case.share, case.share]))
        failed = rng.binomial(came, [case.stable, case.candidate])
        stable = Tally(stable.bad + failed[0], stable.total + came[0])
        candidate = Tally(candidate.bad + failed[1], candidate.total + came[1])
        if min(stable.total, candidate.total) >= fewest:
            answer = judge(stable, candidate, case.margin)
            if answer != "Unclear":
                return answer, int(min(stable.total, candidate.total))
    return "Unclear", quieter


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--fewest", type=int, default=50, help="minRequests")
    parser.add_argument("--most", type=int, default=5000, help="requests of the quieter arm; then it is undecided")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(
        "candidate | stable | margin | its traffic | promoted | within 10 x minRequests | rolled back | requests (90 %)"
    )
    for number, case in enumerate(CASES):
        rng = np.random.default_rng([arguments.seed, number])
        found = [decide(rng, case, arguments.fewest, arguments.most) for _ in range(arguments.runs)]
        promoted = [n for answer, n in found if answer == "NotWorse"]
        soon = sum(n <= 10 * arguments.fewest for n in promoted)
        back = sum(answer == "Worse" for answer, _ in found)
        numbers = sorted(n for _, n in found)
        print(
            f"{case} | {len(promoted) / len(found):6.1%} | {soon / len(found):6.1%} | {back / len(found):6.1%} | "
            f"{statistics.median(numbers):.0f} ({numbers[int(0.9 * len(numbers))]})",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
