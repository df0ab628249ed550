"""How often a canary promotes a worse candidate, and how soon an equal one. A simulation with the operator's own rules.

    PYTHONPATH=operator:server_image python bench/canary_decisions.py [--part answers] [--runs 200] [--seed 1]

Requests arrive at random, and the candidate gets its share of them. Every 5 s the counts of both arms are judged, until
there is a verdict or the quieter arm has `--most` requests. Then the same for latency: answers take lognormal times
around 2 s, counted in the proxy's buckets, and the candidate's times are multiplied by a factor. Last the answers
themselves, by all of their measures together with the default margins: a candidate is equal, or one share is worse by
twice the margin.
"""

import argparse
import math
import statistics
import sys
from dataclasses import dataclass

import numpy as np

from driftloop.api.inferenceservice import Canary
from driftloop.contract.names import ENDINGS
from driftloop.controller.kinds.inferenceservice import comparison
from driftloop.controller.kinds.inferenceservice.answers import LENGTH_RATIO, compare_answers
from driftloop.controller.kinds.inferenceservice.latency import slow_answers
from driftloop.controller.kinds.inferenceservice.sequential import Answer, Bounds, Tally, judge
from driftloop.controller.traffic import Answers, Buckets
from driftloop_server.proxy.metrics import BUCKETS, LENGTH_BUCKETS

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


def histogram(values: list[float], bounds: tuple[float, ...] = BUCKETS) -> Buckets:
    """Cumulative counts in the proxy's buckets."""
    counts = np.searchsorted(np.sort(values), bounds, side="right").astype(float)
    return dict(zip(bounds, counts.tolist(), strict=True)) | {math.inf: float(len(values))}


@dataclass(frozen=True)
class Talk:
    """How two arms answer. The shares are those that the candidate's answers have beyond stable's."""

    what: str
    slower_start: float = 1.0  # factor of the time until the first token
    longer: float = 0.0  # share of answers that become long
    shorter: float = 0.0
    cut: float = 0.0
    empty: float = 0.0
    refused: float = 0.0
    usually_cut: float = 0.1  # share of both arms
    rate: float = 10.0  # requests per second for both arms together

    def __str__(self) -> str:
        return self.what


_CANARY = Canary()
_MEDIAN, _SPREAD = 80, 0.8  # of the tokens of an answer, lognormal
_START_SPREAD = 0.5  # of the time until the first token
# A candidate whose first token takes this many times longer has 5 % plus twice the margin of its answers above the
# limit: the quantiles of the normal distribution for 95 % and for 85 %.
_TWICE = _CANARY.max_latency_ratio * math.exp((1.645 - 1.036) * _START_SPREAD)
TALKS = (
    Talk("equal"),
    Talk("equal, 30 % of both cut off", usually_cut=0.3),
    Talk("first token: 15 % above the limit", slower_start=_TWICE),
    Talk("40 % more long answers", longer=2 * _CANARY.max_length_change),
    Talk("40 % more short answers", shorter=2 * _CANARY.max_length_change),
    Talk("30 % more cut off", cut=2 * _CANARY.max_cut_off_increase),
    Talk("10 % more empty", empty=2 * _CANARY.max_empty_increase),
    Talk("10 % more refused", refused=2 * _CANARY.max_model_refusal_increase),
)


class Talker:
    """One arm, which counts its answers as the proxy does."""

    def __init__(self, rng: np.random.Generator, case: Talk, *, is_candidate: bool) -> None:
        self._rng = rng
        self._start = case.slower_start if is_candidate else 1.0
        worse = is_candidate * 1.0
        shares = {"cut": case.usually_cut, "empty": 0.01, "refused": 0.01}
        more = {"cut": worse * case.cut, "empty": worse * case.empty, "refused": worse * case.refused}
        bad = [shares[ending] + more[ending] for ending in ENDINGS[1:]]
        self._endings = [1 - sum(bad), *bad]
        self._longer, self._shorter = worse * case.longer, worse * case.shorter
        self._starts: list[float] = []
        self._tokens: list[float] = []
        self._counts = dict.fromkeys(ENDINGS, 0.0)

    def answer(self, number: int) -> None:
        self._starts += (0.3 * self._start * self._rng.lognormal(0, _START_SPREAD, number)).tolist()
        tokens = np.ceil(_MEDIAN * self._rng.lognormal(0, _SPREAD, number))
        # Of the answers that are not long (short) yet, as many become so as the share of all answers says.
        usual = _above(LENGTH_RATIO)
        self._become(tokens, self._longer / (1 - usual), 4 * _MEDIAN)
        self._become(tokens, self._shorter / (1 - usual), _MEDIAN / 8)
        self._tokens += tokens.tolist()
        for ending, count in zip(ENDINGS, self._rng.multinomial(number, self._endings), strict=True):
            self._counts[ending] += float(count)

    def _become(self, tokens: np.ndarray, share: float, length: float) -> None:
        tokens[self._rng.random(len(tokens)) < share] = length

    def counted(self) -> Answers:
        return Answers(self._counts, histogram(self._tokens, LENGTH_BUCKETS), histogram(self._starts))


def _above(ratio: float) -> float:
    """The share of a lognormal distribution above `ratio` times its median."""
    return 0.5 * math.erfc(math.log(ratio) / _SPREAD / math.sqrt(2))


def decide_answers(rng: np.random.Generator, case: Talk, fewest: int, most: int) -> tuple[Answer, int]:
    """The same as `decide` for all measures of answers together, with half of the requests on each arm."""
    arms = [Talker(rng, case, is_candidate=is_candidate) for is_candidate in (False, True)]
    counts = [0, 0]
    while (quieter := min(counts)) < most:
        for number, arm in enumerate(arms):
            arrived = int(rng.poisson(case.rate * LOOK_SECONDS / 2))
            arm.answer(arrived)
            counts[number] += arrived
        if (quieter := min(counts)) < fewest:
            continue
        verdicts = [measure.verdict for measure in compare_answers(_CANARY, *(arm.counted() for arm in arms))]
        if "Worse" in verdicts:
            return "Worse", quieter
        if all(verdict == "NotWorse" for verdict in verdicts):
            return "NotWorse", quieter
    return "Unclear", quieter


def without_intervals() -> None:
    """Leave out the intervals and estimates, which decide nothing and take most of the time."""
    comparison.bounds = lambda *_: Bounds(-1.0, 1.0)
    comparison.needed = lambda *_: None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--fewest", type=int, default=50, help="minRequests")
    parser.add_argument(
        "--most", type=int, default=5000, help="requests on the quieter arm after which it is undecided"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", choices=tuple(PARTS), help="default: all")
    arguments = parser.parse_args()
    without_intervals()
    for name, (head, cases, decided) in PARTS.items():
        if arguments.part not in (None, name):
            continue
        print(f"{head} | {COLUMNS}")
        for number, case in enumerate(cases):
            rng = np.random.default_rng([arguments.seed, number])
            runs = [decided(rng, case, arguments.fewest, arguments.most) for _ in range(arguments.runs)]
            show(case, runs, arguments.fewest)
    return 0


PARTS = {
    "failures": ("candidate | stable | margin | candidate's traffic", CASES, decide),
    "latency": ("latency ratio | sigma | margin | maxLatencyRatio", SLOWER, decide_latency),
    "answers": ("answers", TALKS, decide_answers),
}
COLUMNS = "promoted | within 10 x minRequests | rolled back | requests (90 %)"


def show(case: Case | Slower | Talk, verdicts: list[tuple[Answer, int]], fewest: int) -> None:
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
