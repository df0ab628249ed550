"""How often a gate contradicts itself about the same model, beside a point score with a fixed threshold.

    PYTHONPATH=operator python bench/gate_flips.py [--trials 1000] [--json FILE] [--plot docs/gates.svg]

Simulated item by item. At temperature 0 a model answers an item right or wrong, with the accuracy 0.83 that the demo's
model has on banking77. In each run 0.5 % of the answers turn over, as batches change the order of sums. Above 0 each
answer is drawn anew: the probability to answer an item rightly has a beta distribution, most of it near 0 and 1. So
19 % of the answers of two runs differ. A version that was trained anew has other answers on a tenth of the items at
temperature 0. A worse one has also lost delta. Each trial draws the items of a suite, as many as the plan says.

Compared with a point score: the share of right answers must reach a threshold that was fixed before, as with
pass_criteria in TrustyAI's EvalHub. It is halfway between the true accuracies of an equal and of a worse version. No
other threshold treats both better, and outside of a simulation nobody knows it.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from chart import chart, place, rule
from numpy.typing import NDArray

from driftloop.contract.bounds import DIFFERING, paired_difference, planned_items
from driftloop.contract.looks import alpha_of

ACCURACY, CONCENTRATION, TURNING = 0.83, 2.0, 0.005
DELTA, FEW, RETRAININGS = 0.05, 20, 50
TWO = 2 * ACCURACY * (1 - ACCURACY)  # share of independent answers that differ
REDRAWN = DIFFERING / TWO  # share of the items that a new training decides anew
LOSSES = tuple(step / 100 for step in range(-4, 11))
Answers = NDArray[np.bool_]
Chances = NDArray[np.float64]


@dataclass(frozen=True)
class Temperature:
    """How a model answers. Its chances of a right answer, by item, are 0 or 1 at temperature 0."""

    hot: bool

    @property
    def name(self) -> str:
        return "above 0" if self.hot else "0"

    @property
    def differing(self) -> float:
        """Share of the answers of two equal versions that differ."""
        if not self.hot:
            return DIFFERING + 2 * TURNING
        same = TWO * CONCENTRATION / (CONCENTRATION + 1)
        return (1 - REDRAWN) * same + REDRAWN * TWO

    def model(self, rng: np.random.Generator, items: int) -> Chances:
        """A model on new items."""
        if self.hot:
            return rng.beta(CONCENTRATION * ACCURACY, CONCENTRATION * (1 - ACCURACY), items)
        return (rng.random(items) < ACCURACY).astype(np.float64)

    def trained(self, rng: np.random.Generator, parent: Chances, loss: float) -> Chances:
        """A version that was trained anew and has lost `loss` (negative: gained)."""
        chances = np.where(rng.random(parent.size) < REDRAWN, self.model(rng, parent.size), parent)
        chances -= chances * max(loss, 0.0) / ACCURACY
        chances += (1 - chances) * max(-loss, 0.0) / (1 - ACCURACY)
        return chances if self.hot else (rng.random(parent.size) < chances).astype(np.float64)

    def answers(self, rng: np.random.Generator, model: Chances) -> Answers:
        """One run."""
        draws = rng.random(model.size)
        if self.hot:
            return draws < model
        return (model == 1) ^ (draws < TURNING)


Judge = Callable[[Answers, Answers, int], bool]  # the candidate's answers, the stable version's, and the look


@cache
def passes(items: int, gained: int, lost: int, look: int) -> bool:
    """Whether the retention gate passes, for independent items."""
    share = (gained - lost) / items
    error = math.sqrt(((gained + lost) / items - share**2) / (items - 1))
    return paired_difference(items, items, gained, lost, error, alpha_of(look)).excludes_loss(DELTA)


def gate(candidate: Answers, stable: Answers, look: int) -> bool:
    """Driftloop's retention gate."""
    gained, lost = int((candidate & ~stable).sum()), int((stable & ~candidate).sum())
    return passes(candidate.size, gained, lost, look)


def first_look(candidate: Answers, stable: Answers, _: int) -> bool:
    """The same gate, if each look counted as the first one."""
    return gate(candidate, stable, 1)


def point(candidate: Answers, _stable: Answers, _look: int) -> bool:
    """The point score."""
    return bool(candidate.mean() >= ACCURACY - DELTA / 2)


@dataclass(frozen=True)
class Method:
    """A way to judge."""

    name: str
    judge: Judge
    few: bool = False  # 20 items instead of as many as the plan says
    planned_look: int = 1  # for which the plan is made

    def items(self, temperature: Temperature) -> int:
        planned = planned_items(DELTA, self.planned_look, temperature.differing)
        assert planned is not None
        return FEW if self.few else planned


METHODS = (
    Method("Driftloop, retention", gate),
    Method("the same, items for look 10", gate, planned_look=10),
    Method("the same, looks not paid for", first_look),
    Method("point score, fixed threshold", point),
    Method(f"point score of {FEW} items", point, few=True),
)
TEMPERATURES = (Temperature(False), Temperature(True))


@dataclass(frozen=True)
class Line:
    """The shares of a method at a temperature."""

    method: str
    temperature: str
    items: int
    refused: float  # of judgements of the same model
    flips: float  # of pairs of them
    equal: float  # of equal versions, that are approved
    worse: float  # of versions that lost delta, that are approved
    once: float  # of runs of 50 versions that lost delta, in which one or more are approved
    chain: float  # of 50 equal versions, each of which becomes stable if it is approved


def line(method: Method, temperature: Temperature, trials: int) -> Line:
    items = method.items(temperature)
    rng = np.random.default_rng([items, temperature.hot])

    def judged(stable: Chances, candidate: Chances, look: int = 1) -> bool:
        return method.judge(temperature.answers(rng, candidate), temperature.answers(rng, stable), look)

    refused = flips = once = chain = 0
    for _ in range(trials):
        stable = temperature.model(rng, items)
        both = [judged(stable, stable) for _ in range(2)]
        refused, flips = refused + both.count(False), flips + (both[0] != both[1])
        once += any(judged(stable, temperature.trained(rng, stable, DELTA), n + 1) for n in range(RETRAININGS))
    for _ in range(trials // 10):
        stable, look = temperature.model(rng, items), 1
        for _ in range(RETRAININGS):
            candidate = temperature.trained(rng, stable, 0.0)
            if judged(stable, candidate, look):
                stable, look, chain = candidate, 1, chain + 1
            else:
                look += 1
    return Line(
        method.name,
        temperature.name,
        items,
        refused / trials / 2,
        flips / trials,
        approved(method, temperature, 0.0, trials),
        approved(method, temperature, DELTA, trials),
        once / trials,
        chain / (trials // 10) / RETRAININGS,
    )


def approved(method: Method, temperature: Temperature, loss: float, trials: int) -> float:
    """The share of versions with this loss that the method approves at the first look."""
    items = method.items(temperature)
    rng = np.random.default_rng([items, temperature.hot, int(1000 * (loss + 1))])
    count = 0
    for _ in range(trials):
        stable = temperature.model(rng, items)
        candidate = temperature.trained(rng, stable, loss)
        count += method.judge(temperature.answers(rng, candidate), temperature.answers(rng, stable), 1)
    return count / trials


def markdown(lines: Sequence[Line]) -> str:
    """The table of the README."""
    heads = (
        "",
        "temperature",
        "items",
        "same model: not approved",
        "same model twice: verdicts differ",
        "equal version: approved",
        f"lost {DELTA}: approved",
        f"{RETRAININGS} that lost {DELTA}: one or more approved",
        f"{RETRAININGS} equal, in a row: approved",
    )
    text = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for each in lines:
        shares = (each.refused, each.flips, each.equal, each.worse, each.once, each.chain)
        cells = [each.method, each.temperature, str(each.items), *(f"{100 * share:.1f} %" for share in shares)]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


Curve = tuple[str, bool, list[float]]  # name of the method, whether the temperature is above 0, shares by LOSSES


def curves(trials: int) -> Iterator[Curve]:
    """The share of approved versions by what they really lost."""
    for method in METHODS:
        if method.judge is first_look or method.planned_look > 1:
            continue  # the first look is that of the gate, and more items only make it steeper
        for temperature in TEMPERATURES:
            yield method.name, temperature.hot, [approved(method, temperature, loss, trials) for loss in LOSSES]


def svg(found: Sequence[Curve]) -> str:
    """The curves: the share of approved versions over the true loss."""
    names = dict(zip(dict.fromkeys(name for name, _, _ in found), ("#d62728", "#1f77b4", "#2ca02c"), strict=False))
    return chart(
        {_across(loss): f"{100 * loss:.0f}" for loss in (-0.04, -0.02, 0, 0.02, 0.04, 0.06, 0.08, 0.1)},
        "what the version really lost, in points of accuracy",
        "approved at the first look",
        [*rule(_across(DELTA), "delta"), *(_drawn(curve, names[curve[0]]) for curve in found)],
        names,
        "solid: temperature 0, dashed: above 0",
    )


def _across(loss: float) -> float:
    return (loss - LOSSES[0]) / (LOSSES[-1] - LOSSES[0])


def _drawn(curve: Curve, colour: str) -> str:
    _, hot, shares = curve
    places = (place(_across(loss), share) for loss, share in zip(LOSSES, shares, strict=True))
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="6 4"' if hot else ""
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'


def main() -> int:
    """Print the table. Fails if the gate approves too many worse versions, or too few equal ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    lines = [line(method, temperature, arguments.trials) for temperature in TEMPERATURES for method in METHODS]
    print(markdown(lines))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in lines], indent=1))
    if arguments.plot:
        arguments.plot.write_text(svg(list(curves(arguments.trials))))
    ours = [each for each in lines if each.method == METHODS[0].name]
    slack = 3 / math.sqrt(arguments.trials)
    good = all(
        each.worse <= 0.05 + 0.22 * slack and each.once <= 0.05 + 0.22 * slack and each.equal >= 0.8 - 0.4 * slack
        for each in ours
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
