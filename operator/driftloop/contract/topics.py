"""What new requests are about: words and pairs of words that far more requests have than before. Pure.

A term is a word, or two neighbouring words, as `textstats.words` reads them. Per term, the share of requests that have
it since the change is compared with the share before. If nothing has changed, each request with the term is one of the
new ones by chance, as often as other requests are. The binomial probability of so many is exact for rare terms, and too
high for common ones. If several requests count as one, its logarithm is divided by their number, as that of the
detector's bets is. Of the terms that grew, those are kept that Benjamini & Hochberg (1995) allow at a false discovery
rate of `RATE` among all terms that enough requests have, before and since together.

Terms of the same requests are one topic. The term with the most evidence leads the first topic. Its requests are then
left out, and the strongest of the remaining terms leads the next one. So a second topic is not the first one in other
words.

Limits. The change is found in the same requests, so a false alarm has a little more terms than chance alone gives. A
topic that is asked in many words may have no term.
"""

import math
import random
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, pairwise
from sys import intern

from pydantic import Field

from driftloop.api.base import ApiModel
from driftloop.api.inferenceservice import DriftTopic
from driftloop.contract.text import normalise
from driftloop.contract.textstats import words

KEPT = 5_000  # last requests, and as many of the earlier ones
FEWEST = 20  # requests on each side, below which nothing is known
# Different texts and users that must have a term since the change, so that none is told that one person wrote.
TEXTS, USERS = 5, 3
GROWTH = 0.01  # share of the requests by which a term must have grown
RATE = 0.05  # false discoveries among the terms that are kept
TOPICS = 3  # that are named,
OTHERS = 2  # each with so many further terms
EXAMPLES = 3  # and so many requests
MAX_WORDS = 64  # of a text: 5,000 requests take 10 MiB, and 40 MiB if all are long
MAX_CHARACTERS = 40  # of a word; longer ones are not read

_ALIKE = 0.4  # requests with both of two terms, as a share of those with one of them, for one topic (Jaccard)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, without its text."""

    at: datetime
    terms: frozenset[str]
    text: int  # fingerprint of the text
    user: int | None = None  # fingerprint of the user; None: unknown, perhaps another one each time
    name: str = ""  # says where the request can be found


def asked(at: datetime, text: str, user: str | None, name: str = "") -> Asked:
    """A request with this text. Another case or other spaces make no other text."""
    return Asked(at, terms_of(text), hash(normalise(text).casefold()), None if user is None else hash(user), name)


@dataclass(frozen=True)
class Topic:
    """What more requests are about than before."""

    terms: tuple[str, ...]  # the numbers are those of the first one
    before: float  # share of the requests
    since: float  # share of the requests
    requests: int  # since the change
    examples: tuple[str, ...]  # names of the requests that show it best


def told(topic: Topic, rows: Sequence[str]) -> DriftTopic:
    """The topic as the status has it, with the ids of stored ratings."""
    return DriftTopic(
        terms=list(topic.terms),
        before=f"{topic.before:.4f}",
        since=f"{topic.since:.4f}",
        requests=topic.requests,
        rows=list(rows[:EXAMPLES]),
    )


class TopicsReport(ApiModel):
    """The answer of a serving pod about its requests."""

    before: int = Field(ge=0)  # requests before the change that it knows
    since: int = Field(ge=0)  # requests since the change that it knows
    grown: int | None = Field(None, ge=0)  # topics that grew, also those that may not be named; None: unknown
    topics: list[DriftTopic] = Field([], max_length=TOPICS)


class Sample:
    """The last requests, and a uniform sample of the earlier ones (Vitter 1985, algorithm R). Its size is bounded."""

    def __init__(self, last: int = KEPT, earlier: int = KEPT) -> None:
        self._most, self._most_earlier, self._passed = last, earlier, 0
        self._last: deque[Asked] = deque()
        self._earlier: list[Asked] = []
        self._random = random.Random(0)  # noqa: S311 - a sample, not a secret

    def add(self, request: Asked) -> None:
        """Add a request. The oldest of the last ones then takes the place of an earlier one, or is forgotten."""
        self._last.append(request)
        if len(self._last) <= self._most:
            return
        oldest, self._passed = self._last.popleft(), self._passed + 1
        if len(self._earlier) < self._most_earlier:
            self._earlier.append(oldest)
        elif (place := self._random.randrange(self._passed)) < self._most_earlier:
            self._earlier[place] = oldest

    def split(self, change: datetime) -> tuple[list[Asked], list[Asked]]:
        """The requests before a change, and those since then."""
        before: list[Asked] = []
        since: list[Asked] = []
        for request in chain(self._earlier, self._last):
            (before if request.at < change else since).append(request)
        return before, since


def terms_of(text: str) -> frozenset[str]:
    """The words of a text, and its pairs of neighbouring words.

    >>> sorted(terms_of("Freeze my card"))
    ['card', 'freeze', 'freeze my', 'my', 'my card']
    """
    tokens = [word for word in words(text)[:MAX_WORDS] if len(word) <= MAX_CHARACTERS]
    return frozenset(map(intern, [*tokens, *(" ".join(pair) for pair in pairwise(tokens))]))


def topics(
    before: Sequence[Asked], since: Sequence[Asked], together: float = 1.0, named: Collection[str] | None = None
) -> tuple[Topic, ...] | None:
    """The topics that grew, the one with most evidence first. None if too few requests are known on one side.

    `together`: requests that count as one. `named`: the only terms that may be named; None: all.
    """
    if min(len(before), len(since)) < FEWEST:
        return None
    sides = _Sides(before, since, together)
    grown = _discoveries(sides.evidence(shared(since, TEXTS, USERS)), _tested(sides))
    found: list[Topic] = []
    left, least = sides, min(grown.values(), default=0.0)
    grown = {term: value for term, value in grown.items() if named is None or term in named}
    while len(found) < TOPICS:
        strong = {term: value for term, value in left.evidence(grown).items() if value >= least}
        if not strong:
            break
        lead = max(strong, key=lambda term: (strong[term], len(term), term))
        found.append(_topic(sides, left, lead, grown))
        left = left.without(lead)
    return tuple(found)


@dataclass(frozen=True)
class _Sides:
    """The requests on both sides of a change."""

    before: Sequence[Asked]
    since: Sequence[Asked]
    together: float

    def evidence(self, terms: Collection[str]) -> dict[str, float]:
        """-ln of the probability of each term's growth, of the terms that have grown by `GROWTH` or more."""
        if not self.before or not self.since:
            return {}
        old, new = _counted(self.before, terms), _counted(self.since, terms)
        chance = len(self.since) / (len(self.before) + len(self.since))
        return {
            term: -log_tail(count, old[term] + count, chance) / self.together
            for term, count in new.items()
            if count / len(self.since) - old[term] / len(self.before) >= GROWTH
        }

    def without(self, term: str) -> "_Sides":
        """The requests that do not have a term."""
        return _Sides(
            [request for request in self.before if term not in request.terms],
            [request for request in self.since if term not in request.terms],
            self.together,
        )


def log_tail(count: int, trials: int, chance: float) -> float:
    """ln of the probability of at least `count` of `trials`. 0 if that is not more than expected.

    >>> round(math.exp(log_tail(5, 5, 0.5)), 5), log_tail(2, 5, 0.5)
    (0.03125, 0.0)
    """
    if count <= trials * chance:
        return 0.0
    ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    first = ways + count * math.log(chance) + (trials - count) * math.log1p(-chance)
    total, part, odds = 0.0, 1.0, chance / (1 - chance)
    for number in range(count, trials + 1):  # parts of the first one; each is smaller than the one before
        total += part
        part *= odds * (trials - number) / (number + 1)
        if part < total * 1e-12:
            break
    return min(0.0, first + math.log(total))


def _tested(sides: _Sides) -> int:
    """How many terms could have been found. It must not depend on the side on which the requests are."""
    counts = Counter(chain.from_iterable(request.terms for request in chain(sides.before, sides.since)))
    return sum(count >= TEXTS for count in counts.values())


def shared(requests: Sequence[Asked], texts: int, users: int) -> set[str]:
    """The terms that are in so many different texts, and come from so many users."""
    by_text = Counter(chain.from_iterable({request.text: request.terms for request in requests}.values()))
    terms: dict[int | str, frozenset[str]] = {}
    for number, request in enumerate(requests):
        user = f"unknown {number}" if request.user is None else request.user
        terms[user] = terms.get(user, frozenset()) | request.terms
    by_user = Counter(chain.from_iterable(terms.values()))
    return {term for term, count in by_text.items() if count >= texts and by_user[term] >= users}


def _counted(requests: Sequence[Asked], terms: Collection[str]) -> Counter[str]:
    """How many requests have each of the terms."""
    wanted = frozenset(terms)
    return Counter(chain.from_iterable(request.terms & wanted for request in requests))


def _discoveries(evidence: Mapping[str, float], tested: int) -> dict[str, float]:
    """What Benjamini & Hochberg keep of so many terms. Those without evidence have the probability 1."""
    ordered = sorted(evidence.items(), key=lambda item: -item[1])
    kept = [n for n, (_, value) in enumerate(ordered, start=1) if math.exp(-value) <= RATE * n / tested]
    return dict(ordered[: max(kept, default=0)])


def _topic(sides: _Sides, left: _Sides, lead: str, grown: Mapping[str, float]) -> Topic:
    """The topic of a term. Its examples are of the requests that no earlier topic has."""
    rows = [request for request in sides.since if lead in request.terms]
    inside, everywhere = _counted(rows, grown), _counted(sides.since, grown)
    others = [
        term
        for term in grown
        if term != lead and inside[term] >= _ALIKE * (len(rows) + everywhere[term] - inside[term])
    ]
    named = [lead]
    for term in sorted(others, key=lambda term: (-grown[term], term)):
        if len(named) <= OTHERS and not any(_repeats(term, other) for other in named):
            named.append(term)
    old = _counted(sides.before, [lead])[lead]
    shown = [request for request in left.since if lead in request.terms]
    best = sorted(shown, key=lambda request: -math.fsum(grown[term] for term in request.terms if term in grown))
    examples = {request.text: request.name for request in reversed(best)}
    return Topic(
        terms=tuple(named),
        before=old / len(sides.before),
        since=len(rows) / len(sides.since),
        requests=len(rows),
        examples=tuple(reversed(examples.values()))[:EXAMPLES],
    )


def _repeats(term: str, other: str) -> bool:
    """Whether a term is a word of another one."""
    return term in other.split() and term != other
