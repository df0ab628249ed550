"""The usual request rate of a version, so that the requests of a burst count for little. Pure.

A retry loop or one user's script sends a hundred similar requests in a minute. The detector assumes independent
requests, and these are not. Without a limit, sixty of these minutes per month would raise sixty alarms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

BURST = 4.0  # times the usual number; a daily peak stays well below it, and so does the growth of a bin in a shift
MEMORY = 86_400.0  # seconds over which the pace is averaged


@dataclass(frozen=True)
class Pace:
    """Requests per second, and the number of seconds over which they were averaged."""

    rate: float = 0.0
    seconds: float = 0.0


def advance(pace: Pace, requests: float, seconds: float) -> Pace:
    """The pace after a window. It starts with the first request: before its first request a service has no pace."""
    if seconds <= 0 or (requests <= 0 and pace.seconds <= 0):
        return pace
    observed = min(pace.seconds + seconds, MEMORY)
    weight = min(1.0, seconds / observed)
    return Pace((1 - weight) * pace.rate + weight * requests / seconds, observed)


def expected_requests(pace: Pace, requests: float, seconds: float) -> float:
    """The number of requests that is usual for a window. Without a pace yet, it is the number that came."""
    return pace.rate * seconds if pace.seconds > 0 else requests


def independent_limit(expected: float) -> float:
    """The most requests that count as independent when `expected` are usual: two always count."""
    return 2 + BURST * expected


def limited(counts: Sequence[float], masses: Sequence[float], expected: float) -> tuple[int, ...]:
    """The counts of a window that are learned: per bin a few times the usual number at most.

    `masses` are the usual shares of the bins; empty if they are unknown, then the window as a whole is limited.
    """
    if len(masses) == len(counts):
        return tuple(round(min(c, independent_limit(expected * m))) for c, m in zip(counts, masses, strict=True))
    total = sum(counts)
    weight = min(1.0, independent_limit(expected) / total) if total > 0 else 1.0
    return tuple(round(weight * count) for count in counts)
