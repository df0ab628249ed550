"""Words to alarm: the profile, the proxy's counting and the detector's life together, on the demonstration's corpus."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from demo.corpus import BICYCLE, SHOP, rows
from driftloop.api.inferenceservice import Drift, DriftStatus
from driftloop.contract.names import SIGNALS
from driftloop.contract.textstats import build_profile, parse_profile
from driftloop.controller.drift.detector import FEEDBACK, Counters
from driftloop.controller.drift.watch import watch

TEXTS = [row.text for row in rows(SHOP, 150, seed=1)]
random.Random(1).shuffle(TEXTS)
TRAINED, LIVE = TEXTS[::2], TEXTS[1::2]
SHIFTED = [row.text for row in rows(BICYCLE, 60, seed=2)]
PROFILE = parse_profile(build_profile(TRAINED))
LOOK = 20  # requests
SPEC = Drift(baseline_minimum_hours=0, minimum_duration_minutes=0)


def counted(texts: Sequence[str], until: datetime, ratings: tuple[int, int]) -> Counters:
    """What the proxy counts and Prometheus tells of these requests."""
    bins = {signal: [0.0] * len(masses) for signal, masses in PROFILE.masses().items()}
    for text in texts:
        for signal, index in PROFILE.bins(text).items():
            bins[signal][index] += 1
    return Counters(until, bins | {FEEDBACK: ratings}, PROFILE.masses(), PROFILE.rows)


def follow(
    status: DriftStatus, pool: Sequence[str], requests: int, ratings: tuple[int, int], seed: int
) -> tuple[DriftStatus, int]:
    """The status after as many requests of the pool, or at the alarm, and the requests until then."""
    rng = random.Random(seed)
    now = datetime.fromisoformat(str(status.consumed_until))
    for sent in range(LOOK, requests + LOOK, LOOK):
        now += timedelta(seconds=10)
        status = watch(status, "v1", counted(rng.choices(pool, k=LOOK), now, ratings), SPEC, now)
        if status.alarm:
            return status, sent
    return status, requests


@pytest.mark.parametrize("ratings", [(5, 1), (0, 0)], ids=["with feedback", "without feedback"])
def test_other_rows_of_the_same_domain_raise_no_alarm_and_a_new_product_does(ratings: tuple[int, int]) -> None:
    started = watch(DriftStatus(), "v1", None, SPEC, datetime(2026, 1, 1, tzinfo=UTC))
    status, _ = follow(started, LIVE, 3000, ratings, seed=3)
    assert not status.alarm
    status, sent = follow(status, SHIFTED, 400, ratings, seed=4)
    assert status.alarm
    assert sent <= 300
    assert set(status.shift) & set(SIGNALS)
