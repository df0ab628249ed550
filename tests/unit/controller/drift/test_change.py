"""The sentence about a change: the signals that moved, by how much, and since when."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.inferenceservice import DriftStatus, DriftTopic, ReferenceSignal
from driftloop.controller.drift.change import MAX_MESSAGE, sentence, shifts, shortened
from driftloop.controller.drift.detector import FEEDBACK, WATCHED
from driftloop.controller.drift.memory import Memory, baseline, closed, counted, entered, stored

MONDAY = datetime(2026, 1, 5, 10, tzinfo=UTC)
FLAT, HIGH, LOW = (10,) * 10, (5,) * 5 + (15,) * 5, (15,) * 5 + (5,) * 5


def alarm(changed: dict[str, tuple[int, ...]], evidence: dict[str, str], **fields: object) -> DriftStatus:
    """An alarm of Monday 11 h over a flat baseline, since an hour."""
    memory = counted(entered(Memory(), MONDAY, True), {"surprisal": FLAT, "oov": FLAT, FEEDBACK: (90, 10)})
    memory = closed(memory, learn=True)
    return DriftStatus(
        version="v1",
        consumed_until="2026-01-05T12:00:00Z",
        change_point="2026-01-05T11:00:00Z",
        evidence=evidence,
        threshold="8",
        baseline=baseline(memory),
        learned=stored(memory),
        changed=[ReferenceSignal(signal=name, counts=list(counts)) for name, counts in changed.items()],
        alarm=True,
    ).model_copy(update=fields)


def test_the_signals_that_moved_are_named_with_direction_and_size() -> None:
    status = alarm({"surprisal": HIGH, "oov": LOW, "length": FLAT}, {"surprisal": "20", "oov": "9", "length": "7"})
    found = {name: f"{value:.4f}" for name, value in shifts(status).items()}
    assert found == {"surprisal": "0.4074", "oov": "-0.4074"}
    assert sentence(status.model_copy(update={"shift": found})) == (
        "drift: surprisal rose by 0.41 standard deviations, the share of unknown words fell by 0.41 standard "
        "deviations since 2026-01-05T11:00:00Z (100 requests)"
    )


@pytest.mark.parametrize(
    ("health", "told"),
    [("Good", "bad ratings rose from 10 % to 40 %"), ("Unknown", "40 % of the ratings are bad")],
)
def test_ratings_are_told_in_shares(health: str, told: str) -> None:
    status = alarm({FEEDBACK: (60, 40)}, {FEEDBACK: "20"}, health=health)
    assert sentence(status) == f"drift: {told} since 2026-01-05T11:00:00Z"


def test_a_change_is_measured_against_its_own_hour() -> None:
    """At night requests are always longer: what is usual then is not part of the shift."""
    memory, now = Memory(), MONDAY.replace(hour=0)
    for hour in range(24 * 21):
        when = now + timedelta(hours=hour)
        counts = tuple(100 * count for count in (HIGH if when.hour < 12 else LOW))
        memory = counted(entered(memory, when, True), {"surprisal": counts})
    memory = closed(memory, learn=True)
    status = alarm({"surprisal": HIGH}, {"surprisal": "20"}, baseline=baseline(memory), learned=stored(memory))
    morning = status.model_copy(
        update={"change_point": "2026-01-05T09:00:00Z", "consumed_until": "2026-01-05T11:00:00Z"}
    )
    evening = status.model_copy(
        update={"change_point": "2026-01-05T19:00:00Z", "consumed_until": "2026-01-05T21:00:00Z"}
    )
    assert shifts(morning)["surprisal"] == pytest.approx(0.0, abs=0.05)
    assert shifts(evening)["surprisal"] == pytest.approx(0.8, abs=0.1)


def test_an_alarm_of_an_older_release_has_no_figures() -> None:
    old = DriftStatus(version="v1", evidence={"length": "20"}, threshold="8", alarm=True)
    assert (shifts(old), sentence(old)) == ({}, "drift: length changed")


@given(
    st.dictionaries(st.sampled_from(WATCHED), st.lists(st.integers(0, 10**9), max_size=12).map(tuple)),
    st.dictionaries(st.sampled_from(WATCHED), st.text("0123456789. -", max_size=20)),
)
def test_every_status_has_one_sentence_that_fits(changed: dict[str, tuple[int, ...]], evidence: dict[str, str]) -> None:
    status = alarm(changed, evidence)
    told = sentence(status.model_copy(update={"shift": {s: f"{v:.4f}" for s, v in shifts(status).items()}}))
    assert told.startswith("drift: ")
    assert len(told) < 350  # the message has 512 characters, and also says what requests are compared with
    assert "\n" not in told


REFUND = DriftTopic(terms=["refund", "my refund"], before="0.0144", since="0.1182", requests=59, rows=["resp-1"])
ASKED = "2026-01-05T11:59:00Z"


@pytest.mark.parametrize(
    ("topics", "unnamed", "told"),
    [
        ([REFUND], 0, '; more requests with "refund", "my refund": 1.4 % before, 12 % since (59)'),
        ([], 2, "; 2 more topics in words of too few stored prompts"),
        ([], 0, "; no word is in many more requests than before"),
    ],
)
def test_the_sentence_says_what_the_requests_are_about(topics: list[DriftTopic], unnamed: int, told: str) -> None:
    status = alarm({"oov": HIGH}, {"oov": "20"}, topics=topics, unnamed_topics=unnamed, topics_at=ASKED)
    unknown = status.model_copy(update={"topics": [], "unnamed_topics": 0, "topics_at": None})
    assert sentence(status) == sentence(unknown) + told


def test_a_message_is_as_long_as_the_status_can_have_it() -> None:
    long = REFUND.model_copy(update={"terms": ["x" * 81] * 3})
    told = sentence(alarm({"oov": HIGH}, {"oov": "20"}, topics=[long] * 3, topics_at=ASKED))
    assert len(told) > MAX_MESSAGE
    assert len(shortened(told)) == MAX_MESSAGE
    assert DriftStatus(message=shortened(told)).message == shortened(told)
    assert shortened("short") == "short"
