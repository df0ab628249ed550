"""How often a canary promotes a worse candidate, and how soon an equal one. A simulation with the operator's own rules.

    PYTHONPATH=operator:server_image python bench/canary_decisions.py [--runs 200] [--seed 1]

Requests arrive at random, and the candidate gets its share of them. Every 5 s the counts of both arms are judged, until
there is a verdict or the quieter arm has `--most` requests. Then the same for latency: answers take lognormal times
around 2 s, counted in the proxy's buckets, and the candidate's times are multiplied by a factor.
"""

import argparse
import math
import statistics
import sys
from dataclasses import dataclass

import numpy as np

from driftloop.controller.kinds.inferenceservice.latency import slow_answers
from driftloop.controller.kinds.inferenceservice.sequential import Answer, Tally, judge
from driftloop.controller.traffic import Buckets
from driftloop_server.proxy.metrics import BUCKETS

LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Case:
    """Shares of failing requests per arm, and the traffic."""

    stable: float
    candidate: float
    margin: float
    share: float = 0.5  # share of the requests that go to the candidate
    rate: float = 10.0  # requests per second for both arms together

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
    """The verdict, and the number of requests on the quieter arm until then."""
    stable, candidate = Tally(0, 0), Tally(0, 0)
    while (quieter := int(min(stable.total, candidate.total))) < most:
        arrived = rng.poisson(case.rate * LOOK_SECONDS * np.array([1 - case.share, case.share]))
        failed = rng.binomial(arrived, [case.stable, case.candidate])
        stable = Tally(stable.bad + failed[0], stable.total + arrived[0])
        candidate = Tally(candidate.bad + failed[1], candidate.total + arrived[1])
        if min(stable.total, candidate.total) >= fewest:
            answer = judge(stable, candidate, case.margin)
            if answer != "Unclear":
                return answer, int(min(stable.total, candidate.total))
    return "Unclear", quieter


@dataclass(frozen=True)
class Slower:
    """`times`: the candidate's latency divided by stable's. `sigma`: spread of the logarithm of both latencies."""

    sigma: float
    times: float
    margin: float = 0.01
    ratio: float = 1.5
    rate: float = 10.0  # requests per second for both arms together

    def __str__(self) -> str:
        return f"{self.times:4.2f} | {self.sigma:3.1f} | {self.margin:4.0%} | {self.ratio}"


SLOWER = (
    Slower(0.5, 1.0),
    Slower(0.5, 1.4),
    Slower(0.5, 1.6),
    Slower(0.5, 2.0),
    Slower(1.0, 1.0),
    Slower(1.0, 1.6),
    Slower(1.0, 2.0),
    Slower(1.0, 1.0, margin=0.05),
)


def decide_latency(rng: np.random.Generator, case: Slower, fewest: int, most: int) -> tuple[Answer, int]:
    """The same as `decide` for latency, with half of the requests on each arm."""
    taken: list[list[float]] = [[], []]
    while (quieter := min(map(len, taken))) < most:
        for arm, times in zip(taken, (1.0, case.times), strict=True):
            arm += (2 * times * rng.lognormal(0, case.sigma, rng.poisson(case.rate * LOOK_SECONDS / 2))).tolist()
        if (quieter := min(map(len, taken))) < fewest:
            continue
        late = slow_answers(histogram(taken[0]), histogram(taken[1]), case.ratio)
        if late is not None and (answer := judge(late.stable, late.candidate, case.margin)) != "Unclear":
            return answer, quieter
    return "Unclear", quieter


def histogram(seconds: list[float]) -> Buckets:
    """Cumulative counts in the proxy's buckets."""
    counts = np.searchsorted(np.sort(seconds), BUCKETS, side="right").astype(float)
    return dict(zip(BUCKETS, counts.tolist(), strict=True)) | {math.inf: float(len(seconds))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--fewest", type=int, default=50, help="minRequests")
    parser.add_argument(
        "--most", type=int, default=5000, help="requests on the quieter arm after which it is undecided"
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print("candidate | stable | margin | candidate's traffic | " + COLUMNS)
    for number, case in enumerate(CASES):
        rng = np.random.default_rng([arguments.seed, number])
        show(
            case,
            [decide(rng, case, arguments.fewest, arguments.most) for _ in range(arguments.runs)],
            arguments.fewest,
        )
    print("latency ratio | sigma | margin | maxLatencyRatio | " + COLUMNS)
    for number, slower in enumerate(SLOWER):
        rng = np.random.default_rng([arguments.seed, number])
        show(
            slower,
            [decide_latency(rng, slower, arguments.fewest, arguments.most) for _ in range(arguments.runs)],
            arguments.fewest,
        )
    return 0


COLUMNS = "promoted | within 10 x minRequests | rolled back | requests (90 %)"


def show(case: Case | Slower, verdicts: list[tuple[Answer, int]], fewest: int) -> None:
    """Print a line of the table."""
    promoted = [n for answer, n in verdicts if answer == "NotWorse"]
    soon = sum(n <= 10 * fewest for n in promoted)
    back = sum(answer == "Worse" for answer, _ in verdicts)
    numbers = sorted(n for _, n in verdicts)
    print(
        f"{case} | {len(promoted) / len(verdicts):6.1%} | {soon / len(verdicts):6.1%} | {back / len(verdicts):6.1%} | "
        f"{statistics.median(numbers):.0f} ({numbers[int(0.9 * len(numbers))]})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
