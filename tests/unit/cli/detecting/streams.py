"""Streams of requests for the tests, from the demonstration's corpus: a web shop, and a product launched later."""

import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from demo.corpus import BICYCLE, SHOP, rows

START = datetime(2026, 11, 1, tzinfo=UTC)
TEXTS = [row.text for row in rows(SHOP, 200, seed=1)]
random.Random(1).shuffle(TEXTS)
REFERENCE, OLD = TEXTS[::2], TEXTS[1::2]
NEW = [row.text for row in rows(BICYCLE, 60, seed=2)]
PACE = 30.0  # seconds between requests
Sent = tuple[datetime, str, str]  # time, text, user


def requests(pool: Sequence[str], hours: float, since: datetime = START, seed: int = 1) -> Iterator[Sent]:
    """Requests of many users, a different text each time if the pool allows it."""
    rng, now = random.Random(seed), since
    while now < since + timedelta(hours=hours):
        yield now, rng.choice(pool), f"user {rng.randrange(500)}"
        now += timedelta(seconds=rng.expovariate(1 / PACE))


def plain(sent: Iterator[Sent]) -> Iterator[str]:
    """The lines of the plain format."""
    for at, text, user in sent:
        yield json.dumps({"time": at.isoformat(), "text": text, "user": user})


def written(path: Path, *parts: Iterator[str]) -> Path:
    """A file of these lines."""
    path.write_text("".join(f"{line}\n" for part in parts for line in part))
    return path
