"""Words to alarm: the profile, the proxy's counting and the detector's life together, on the demonstration's corpus."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from demo.corpus import BICYCLE, SHOP, rows
from driftloop.api.inferenceservice import Drift, DriftStatus
from driftloop.contract.names import NOVELTY, TEXT_SIGNALS
from driftloop.controller.drift.detector import FEEDBACK, Counters
from driftloop.controller.drift.watch import watch
from driftloop.podlib.novelty import profile_of
from driftloop_server.proxy.drift import Reference

TEXTS = [row.text for row in rows(SHOP, 150, seed=1)]
random.Random(1).shuffle(TEXTS)
TRAINED, LIVE = TEXTS[::2], TEXTS[1::2]
SHIFTED = [row.text for row in rows(BICYCLE, 60, seed=2)]
REFERENCE = Reference.of(profile_of(TRAINED))
SUBJECTS = [
    [f"{subject}{chr(97 + n)}" for n in range(10)]
    for subject in ("card", "loan", "fund", "cash", "rate", "bond", "fee")
]
LOOK = 20  # requests
SPEC = Drift(baseline_minimum_hours=0, minimum_duration_minutes=0)


def counted(
    texts: Sequence[str], until: datetime, ratings: tuple[int, int], reference: Reference = REFERENCE
) -> Counters:
    """What the proxy counts and Prometheus tells of these requests."""
    bins = {signal: [0.0] * len(masses) for signal, masses in reference.masses().items()}
    for text in texts:
        for signal, index in reference.bins(text).items():
            bins[signal][index] += 1
    return Counters(until, bins | {FEEDBACK: ratings}, reference.masses(), reference.profile.rows)


def follow(
    status: DriftStatus,
    pool: Sequence[str],
    requests: int,
    ratings: tuple[int, int],
    seed: int,
    reference: Reference = REFERENCE,
    spec: Drift = SPEC,
) -> tuple[DriftStatus, int]:
    """The status after as many requests of the pool, or at the alarm, and the requests until then."""
    rng = random.Random(seed)
    now = datetime.fromisoformat(str(status.consumed_until))
    for sent in range(LOOK, requests + LOOK, LOOK):
        now += timedelta(seconds=10)
        status = watch(status, "v1", counted(rng.choices(pool, k=LOOK), now, ratings, reference), spec, now)
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
    assert set(status.shift) & set(TEXT_SIGNALS)


def texts_about(subjects: Sequence[int], number: int, chooser: random.Random) -> list[str]:
    """Texts of pairs of words, each from one of the subjects in turn. What follows `and` tells nothing by itself."""

    def pair(subject: int) -> str:
        first = chooser.randrange(9)
        return " ".join(SUBJECTS[subject][first : first + 2])

    return [" and ".join(map(pair, subjects)) for _ in range(number)]


def test_known_pairs_of_words_that_never_met_in_a_request_raise_an_alarm_only_by_novelty() -> None:
    chooser = random.Random(5)
    trained = [text for n in range(7) for text in texts_about([n, n, n, n], 150, chooser)]
    live = [text for n in range(7) for text in texts_about([n, n, n, n], 150, chooser)]
    mixed = [text for n in range(7) for text in texts_about([n, n, (n + 3) % 7, (n + 3) % 7], 60, chooser)]
    reference = Reference.of(profile_of(trained))
    found = {}
    for novelty in (True, False):
        spec = SPEC.model_copy(update={"novelty": novelty})
        started = watch(DriftStatus(), "v1", None, spec, datetime(2026, 1, 1, tzinfo=UTC))
        status, _ = follow(started, live, 3000, (0, 0), 3, reference, spec)
        assert not status.alarm
        found[novelty] = follow(status, mixed, 3000, (0, 0), 4, reference, spec)
    (with_novelty, sent), (without, _) = found[True], found[False]
    assert set(with_novelty.shift) == {NOVELTY}
    assert sent <= 400
    assert not without.alarm
    assert NOVELTY not in without.evidence
