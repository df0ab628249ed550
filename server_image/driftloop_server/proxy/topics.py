"""What this pod's new requests are about, in words of prompts whose users agreed that they are stored.

The operator asks during an alarm of drift, since when. A term is named only if prompts of stored ratings have it, and
the rules of `contract/topics.py` hold for the requests. The requests' terms are only in this pod's memory.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from aiohttp import web

from driftloop.api.inferenceservice import DriftTopic
from driftloop.contract.topics import Asked, Sample, Topic, TopicsReport, asked, shared, told, topics

LAST, EARLIER = 1_000, 4_000  # requests that are kept; many earlier ones make a new word stand out sooner
STORED = 1_000  # last stored ratings
CONSENTED = 2  # stored prompts, of different texts, and users (if the ratings name users), that must have a term
PAUSE = 5.0  # seconds between two answers: each takes a tenth of a second of a CPU
MAX_TOGETHER = 1e6


class Topics:
    """Remembers the terms of requests and of stored ratings."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._sample = Sample(LAST, EARLIER)
        self._stored: deque[Asked] = deque(maxlen=STORED)
        self._clock, self._answered = clock, float("-inf")

    def count(self, text: str, user: str | None) -> None:
        """Remember a request that counts for drift."""
        self._sample.add(asked(datetime.now(UTC), text, user))

    def consented(self, at: datetime, text: str, user: str, row: str) -> None:
        """Remember the prompt of a stored rating. `at`: when it was asked."""
        self._stored.append(asked(at, text, user or None, row))

    async def get(self, request: web.Request) -> web.Response:
        """The topics since a time. 400 for a wrong question, 429 if it is asked again too soon."""
        try:
            since = datetime.fromisoformat(request.query["since"])
            together = float(request.query["together"])
        except (KeyError, ValueError):
            since, together = datetime.min, 0.0
        if since.tzinfo is None or not 1 <= together <= MAX_TOGETHER:
            return web.Response(text="since: a time with a zone; together: a number of 1 or more\n", status=400)
        if (wait := self._answered + PAUSE - self._clock()) > 0:
            return web.Response(status=429, headers={"Retry-After": str(int(wait) + 1)})
        self._answered = self._clock()
        sides, stored = self._sample.split(since), list(self._stored)
        report = await asyncio.to_thread(_report, *sides, stored, since, together)
        return web.json_response(report.dump())


def _report(
    before: list[Asked], since: list[Asked], stored: list[Asked], change: datetime, together: float
) -> TopicsReport:
    grown = topics(before, since, together)
    agreed = shared(stored, CONSENTED, CONSENTED)
    named = topics(before, since, together, agreed) if grown else ()
    second = change.replace(microsecond=0)  # ids have whole seconds
    shown = [request for request in stored if request.at >= second]
    return TopicsReport(
        before=len(before),
        since=len(since),
        grown=None if grown is None else len(grown),
        topics=[_named(topic, shown) for topic in named or ()],
    )


def _named(topic: Topic, stored: list[Asked]) -> DriftTopic:
    """The topic with the ids of stored ratings about it: those with most of its terms, the latest first."""
    about = [request for request in reversed(stored) if topic.terms[0] in request.terms]
    best = sorted(about, key=lambda request: -len(request.terms.intersection(topic.terms)))
    return told(topic, list(dict.fromkeys(request.name for request in best)))  # an answer can be rated twice
