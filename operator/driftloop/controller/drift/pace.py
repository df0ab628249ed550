"""How many requests usually come in a time, so that a burst counts for little. Pure.

A retry loop or one user's script sends a hundred like requests in a minute. They are not a hundred independent ones,
which is what evidence assumes, and sixty such minutes per month would be sixty alarms.
"""

from dataclasses import dataclass

BURST = 4.0  # times what is usual; a day's peak is well below it, and so is the share of a bin in a shift
MEMORY = 86_400.0  # seconds over which the pace is an average


@dataclass(frozen=True)
class Pace:
    """Requests per second, averaged over so many seconds."""

    rate: float = 0.0
    seconds: float = 0.0


def advance(pace: Pace, requests: float, seconds: float) -> Pace:
    """The pace after a window. It begins with the first request: a service that waits for its traffic has none yet."""
    if seconds <= 0 or (requests <= 0 and pace.seconds <= 0):
        return pace
    observed = min(pace.seconds + seconds, MEMORY)
    weight = min(1.0, seconds / observed)
    return Pace((1 - weight) * pace.rate + weight * requests / seconds, observed)


def usual(pace: Pace, requests: float, seconds: float) -> float:
    """Requests that are usual for a window. Until there is a pace, those that came are."""
    return pace.rate * seconds if pace.seconds > 0 else requests


def believed(expected: float) -> float:
    """Requests, of `expected` ones, that are believed to be independent: a single one always is."""
    return 1 + BURST * expected
