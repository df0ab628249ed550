"""What many small losses add up to, with and without the anchor of a suite with totalDelta.

    PYTHONPATH=operator python bench/gate_anchor.py [--items 2000] [--delta 0.05] [--total 0.1] [--runs 200]

A family is retrained 50 times. Each time the candidate starts from the stable version, loses by 0.6 delta, and is
judged by a retention suite; if it is approved, it is the next stable version. The second half of the table has
candidates that lose nothing, as a limit costs approvals too. Simulated item by item: a right answer is lost and a wrong
one gained with probabilities that give the loss, and of two equal versions a tenth of the answers differ. The items are
the same in all retrainings, or fresh ones in each.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from driftloop.contract.bounds import DIFFERING, paired_difference, share_bounds
from driftloop.contract.looks import alpha_of

RETRAININGS, START, SHARE = 50, 0.9, 0.6
Answers = NDArray[np.bool_]


@dataclass(frozen=True)
class World:
    """The suite, and what the candidates do."""

    items: int
    delta: float
    total: float | None  # None: without an anchor
    loss: float  # of each candidate
    fresh: bool  # whether each retraining has items of its own


@dataclass
class Family:
    """The versions that serve, one after the other."""

    accuracy: float = START  # the true one, of the stable version
    approved: int = 0
    look: int = 0  # at the items, with this stable version
    anchor_look: int = 0


@cache
def loses(items: int, gained: int, lost: int, look: int, delta: float) -> bool:
    """Whether the gate can't exclude a loss of `delta`, for independent items."""
    share = (gained - lost) / items
    error = math.sqrt(((gained + lost) / items - share**2) / (items - 1))
    return not paired_difference(items, items, gained, lost, error, alpha_of(look)).excludes_loss(delta)


def compared(world: World, one: Answers, other: Answers, look: int, delta: float) -> bool:
    """Whether the gate passes the answers `one` beside `other`, in which a loss of `delta` must be possible."""
    if share_bounds(world.items, world.items, float(other.sum()), 0.0)[0] <= delta:
        return False
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return not loses(world.items, gained, lost, look, delta)


def life(world: World, seed: int) -> Family:
    """A family after its retrainings."""
    rng, family = np.random.default_rng(seed), Family()
    anchor = rng.random(world.items) < family.accuracy
    stable = anchor.copy()
    for _ in range(RETRAININGS):
        if world.fresh:
            anchor = rng.random(world.items) < START
            stable = descended(rng, anchor, START, START - family.accuracy)
        candidate = descended(rng, stable, family.accuracy, world.loss)
        family.look, family.anchor_look = (1, 1) if world.fresh else (family.look + 1, family.anchor_look + 1)
        passes = compared(world, candidate, stable, family.look, world.delta)
        if world.total is not None:
            passes &= compared(world, candidate, anchor, family.anchor_look, world.total)
        if passes:
            stable = candidate
            family.accuracy, family.approved, family.look = (
                max(0.0, family.accuracy - world.loss),
                family.approved + 1,
                0,
            )
    return family


def descended(rng: np.random.Generator, parent: Answers, accuracy: float, loss: float) -> Answers:
    """The answers of a version that was trained from the parent, whose true accuracy is lower by `loss`."""
    gained = min(DIFFERING / 2, (1 - accuracy) / 2)
    lost = min(accuracy, gained + loss)
    draws = rng.random(parent.size)
    kept = draws >= (lost / accuracy if accuracy > 0 else 0.0)
    found = draws < (gained / (1 - accuracy) if accuracy < 1 else 0.0)
    return np.where(parent, kept, found)


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    for share in (SHARE, 0.0):
        for fresh in (False, True):
            for total in (None, arguments.total):
                world = World(arguments.items, arguments.delta, total, share * arguments.delta, fresh)
                found = [life(world, seed) for seed in range(arguments.runs)]
                accuracy = np.array([family.accuracy for family in found])
                approved = np.array([family.approved for family in found])
                used_up = np.mean(START - accuracy >= arguments.total) if total else math.nan
                yield (
                    f"| {world.loss:.3f} | {'fresh' if fresh else 'the same'} | {'no' if total is None else total} "
                    f"| {approved.mean():.1f} | {accuracy.mean():.3f} | {accuracy.min():.3f} "
                    f"| {'' if math.isnan(used_up) else f'{used_up:.1%}'} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--total", type=float, default=0.1)
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()
    print(f"{RETRAININGS} retrainings, {arguments.items} items, delta {arguments.delta}, {arguments.runs} runs each\n")
    print("| loss of each candidate | items | totalDelta | approved | accuracy at the end | lowest | lost totalDelta |")
    print("|---" * 7 + "|")
    for row in rows(arguments):
        print(row, flush=True)


if __name__ == "__main__":
    main()
