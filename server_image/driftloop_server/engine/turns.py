"""Whose turn it is: the model's time is shared among requests, so that a costly one takes it from itself. Pure."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar

BY_WEIGHT = 0.75  # of the time; the rest is divided evenly, so that one request beside many still gets on


class Work(Protocol):
    """Requests that have the model together: a block of rows, or the prompts of a lane."""

    spent: float | None  # seconds of the model by its share; None: it had no turn yet


AnyWork = TypeVar("AnyWork", bound=Work)


def weights(owners: Sequence[Sequence[str]]) -> list[float]:
    """What each piece of work weighs, by the clients of its requests: a client weighs 1, however many it sends."""
    requests = Counter(client for clients in owners for client in clients)
    return [sum(1 / requests[client] for client in clients) for clients in owners]


def shares(weights: Sequence[float]) -> list[float]:
    """What part of the model's time each piece of work gets. They add up to 1."""
    total = sum(weights)
    return [BY_WEIGHT * weight / total + (1 - BY_WEIGHT) / len(weights) for weight in weights]


def pick(works: Sequence[AnyWork]) -> AnyWork:
    """The one that had the least of its share; of equals the last. Who is new begins where the others stand.

    This is stride scheduling (Waldspurger 1995) with measured time for quanta.
    """
    floor = min((work.spent for work in works if work.spent is not None), default=0.0)
    for work in works:
        work.spent = floor if work.spent is None else work.spent
    return min(reversed(works), key=_spent)


def charge(work: Work, share: float, seconds: float) -> None:
    """`work` had the model for so long."""
    work.spent = _spent(work) + seconds / share


def _spent(work: Work) -> float:
    return work.spent or 0.0


class Pace:
    """How many tokens of a prompt are read at a time: as many as hold the running requests up for two steps."""

    MIN_TOKENS, MAX_TOKENS = 32, 2048
    MIN_SECONDS = 0.02
    SECONDS_ALONE = 0.1  # when nobody is held up but those who are yet to come

    def __init__(self) -> None:
        self._step = 0.0  # seconds that the last step took
        self._per_token = 0.0  # seconds, of the last piece of a prompt

    def stepped(self, seconds: float) -> None:
        self._step = seconds

    def read(self, tokens: int, seconds: float) -> None:
        self._per_token = seconds / tokens

    def tokens(self, alone: bool) -> int:
        """`alone`: no other request is in the model."""
        if not self._per_token:
            return self.MIN_TOKENS
        seconds = self.SECONDS_ALONE if alone else max(2 * self._step, self.MIN_SECONDS)
        return int(min(max(seconds / self._per_token, self.MIN_TOKENS), self.MAX_TOKENS))
