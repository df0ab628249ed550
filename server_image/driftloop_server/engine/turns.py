"""Shares the model's time fairly among requests, so that a costly one slows down only itself. Pure."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar

BY_WEIGHT = 0.75  # share of the time divided by weight; the rest is divided evenly, so that no work starves


class Work(Protocol):
    """Requests that use the model together: a block of rows, or the prompts of a lane."""

    spent: float | None  # seconds of model time divided by its share; None: it has not had a turn


AnyWork = TypeVar("AnyWork", bound=Work)


def weights(owners: Sequence[Sequence[str]]) -> list[float]:
    """The weight of each piece of work. A client has weight 1 in total, however many requests it sends."""
    requests = Counter(client for clients in owners for client in clients)
    return [sum(1 / requests[client] for client in clients) for clients in owners]


def shares(weights: Sequence[float]) -> list[float]:
    """Each work's share of the model's time. The sum is 1."""
    total = sum(weights)
    return [BY_WEIGHT * weight / total + (1 - BY_WEIGHT) / len(weights) for weight in weights]


def pick(works: Sequence[AnyWork]) -> AnyWork:
    """The work that has had the least of its share; of equals the last. New work starts at the level of the others.

    This is stride scheduling (Waldspurger 1995) with measured times as quanta.
    """
    floor = min((work.spent for work in works if work.spent is not None), default=0.0)
    for work in works:
        work.spent = floor if work.spent is None else work.spent
    return min(reversed(works), key=_spent)


def charge(work: Work, share: float, seconds: float) -> None:
    """Record that `work` used the model for `seconds`."""
    work.spent = _spent(work) + seconds / share


def _spent(work: Work) -> float:
    return work.spent or 0.0


class Pace:
    """How many tokens of a prompt to read at once: as many as delay the running requests by two steps."""

    MIN_TOKENS, MAX_TOKENS = 32, 2048
    MIN_SECONDS = 0.02
    SECONDS_ALONE = 0.1  # while no other request runs that would be delayed

    def __init__(self) -> None:
        self._step = 0.0  # seconds of the last step
        self._per_token = 0.0  # seconds per token in the last piece of a prompt

    def stepped(self, seconds: float) -> None:
        self._step = seconds

    def read(self, tokens: int, seconds: float) -> None:
        self._per_token = seconds / tokens

    def tokens(self, alone: bool) -> int:
        """Tokens to read next. `alone`: no other request is running."""
        if not self._per_token:
            return self.MIN_TOKENS
        seconds = self.SECONDS_ALONE if alone else max(2 * self._step, self.MIN_SECONDS)
        return int(min(max(seconds / self._per_token, self.MIN_TOKENS), self.MAX_TOKENS))
