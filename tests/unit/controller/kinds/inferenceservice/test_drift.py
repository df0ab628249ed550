"""The glue to the detector: when it looks, and whom it tells."""

from dataclasses import replace

import pytest

from driftloop.api.inferenceservice import DriftStatus, DriftTopic, InferenceServiceStatus
from driftloop.contract.topics import TopicsReport
from driftloop.controller.drift.detector import Counters
from driftloop.controller.kinds.inferenceservice.drift import check_drift, window
from driftloop.controller.kinds.inferenceservice.observed import Observed, Version
from driftloop.controller.kinds.inferenceservice.situation import situation_of
from driftloop.controller.vocabulary.conditions import timestamp
from unit.controller.kinds.inferenceservice.builders import NOW, SETTINGS, ago, revision, service, version

V1 = version("v1", 300)
NORMAL = {"surprisal": [100.0, 100.0], "oov": [180.0, 20.0], "length": [100.0, 100.0], "feedback": [60.0, 3.0]}
SHIFTED = {"surprisal": [0.0, 200.0], "oov": [0.0, 200.0], "length": [100.0, 100.0], "feedback": [5.0, 60.0]}


def serving(drift: DriftStatus | None = None, enabled: bool = True, topics: bool = True) -> Observed:
    observed = service(
        {
            "drift": {
                "enabled": enabled,
                "topics": topics,
                "baselineRequests": 200,
                "baselineMinimumHours": 0,
                "minimumDurationMinutes": 0,
            }
        },
        status=InferenceServiceStatus(drift=drift),
        versions=(V1,),
    )
    return replace(observed, revisions=(revision(observed, V1, "stable", 2),))


def seen(observed: Observed, *windows: dict[str, list[float]]) -> tuple[DriftStatus, list[str]]:
    """The state after these windows, and the reasons of the events on the way."""
    events: list[str] = []
    state, _ = check_drift(situation_of(observed, SETTINGS, NOW))
    for bins in windows:
        found = replace(observed, status=InferenceServiceStatus(drift=state), counters=Counters(until=NOW, bins=bins))
        state, told = check_drift(situation_of(found, SETTINGS, NOW))
        events += [event.reason for event in told]
    assert state is not None
    return state, events


def test_normal_traffic_raises_no_alarm() -> None:
    state, events = seen(serving(), *[NORMAL] * 20)
    assert not state.alarm
    assert events == []


def test_an_alarm_is_told_once() -> None:
    state, events = seen(serving(), *[NORMAL] * 5, *[SHIFTED] * 12)
    assert state.alarm
    assert events == ["DriftDetected"]


def test_an_alarm_tells_the_topics_and_forgets_them_when_it_ends() -> None:
    alarm, _ = seen(serving(), *[NORMAL] * 5, *[SHIFTED] * 12)
    topic = DriftTopic(terms=["refund"], before="0.0100", since="0.2000", requests=40, rows=["resp-1"])
    report = TopicsReport(before=900, since=200, grown=3, topics=[topic])
    counters = Counters(until=NOW, bins=SHIFTED)
    status = InferenceServiceStatus(drift=alarm)
    told, _ = check_drift(
        situation_of(replace(serving(), status=status, counters=counters, topics=report), SETTINGS, NOW)
    )
    assert told is not None
    assert (told.topics, told.topics_at, told.unnamed_topics) == ([topic], timestamp(NOW), 2)
    assert '"refund": 1 % before, 20 % since (40); 2 more topics' in (told.message or "")
    kept, _ = seen(serving(told), SHIFTED)
    assert (kept.topics, kept.topics_at) == ([topic], timestamp(NOW))
    calm, _ = seen(serving(told.model_copy(update={"evidence": {}})), NORMAL)
    assert not calm.alarm
    assert (calm.topics, calm.topics_at, calm.unnamed_topics) == ([], None, 0)


TOLD = {
    "topics": [DriftTopic(terms=["refund"], before="0.0100", since="0.2000", requests=40)],
    "topics_at": timestamp(NOW),
    "unnamed_topics": 2,
}


def test_words_are_forgotten_at_once_when_they_may_not_be_named_any_more() -> None:
    alarm, _ = seen(serving(), *[NORMAL] * 5, *[SHIFTED] * 12)
    told = alarm.model_copy(update=TOLD | {"message": 'more requests with "refund"'})
    state, _ = seen(serving(told, topics=False))
    assert (state.alarm, state.topics, state.topics_at, state.unnamed_topics) == (True, [], None, 0)
    assert (state.message or "").startswith("drift: ")
    assert "refund" not in (state.message or "")


def test_a_held_alarm_forgets_the_words_too() -> None:
    alarm, _ = seen(serving(), *[NORMAL] * 5, *[SHIFTED] * 12)
    held, _ = seen(promoted(alarm.model_copy(update=TOLD), gained=False))
    assert '"refund"' in (held.message or "")
    again, _ = seen(promoted(held, gained=False))
    assert again == held
    state, _ = seen(promoted(held, gained=False, topics=False))
    assert (state.held_from, state.topics) == ("v1", [])
    assert "refund" not in (state.message or "")
    assert "the alarm of v1 is held" in (state.message or "")


def test_topics_without_an_alarm_are_not_told() -> None:
    calm, _ = seen(serving(), *[NORMAL] * 5)
    report = TopicsReport(before=900, since=200, grown=1)
    status = InferenceServiceStatus(drift=calm)
    told, _ = check_drift(situation_of(replace(serving(), status=status, topics=report), SETTINGS, NOW))
    assert told == calm


def promoted(state: DriftStatus, gained: bool, topics: bool = True) -> Observed:
    """Another version serves, with that alarm in the status."""
    v2 = version("v2", 100, gained=gained, judged=NOW)
    observed = replace(serving(state, topics=topics), versions=(V1, v2))
    return replace(observed, revisions=(revision(observed, v2, "stable", 2),))


def test_an_alarm_stands_until_a_version_with_a_gain_serves() -> None:
    """An unchanged model was promoted, the shifted traffic became normal, and drift was declared over."""
    alarm, _ = seen(serving(), *[NORMAL] * 5, *[SHIFTED] * 12)
    held, events = seen(promoted(alarm, gained=False), *[SHIFTED] * 30)
    assert (held.alarm, held.version, held.held_from, held.baseline) == (True, "v2", "v1", alarm.baseline)
    assert events == []
    assert window(situation_of(promoted(held, gained=False), SETTINGS, NOW)) is None
    learned = SHIFTED | {"feedback": NORMAL["feedback"]}
    fresh, _ = seen(promoted(alarm, gained=True), *[learned] * 30)
    assert (fresh.alarm, fresh.version, fresh.held_from) == (False, "v2", None)


@pytest.mark.parametrize("serves", [V1, version("v0", 900)])
def test_a_gain_that_was_shown_before_the_change_answers_no_alarm(serves: Version) -> None:
    """Each retrained version has gained over its own baseline: going back to one declared the drift over."""
    alarm, _ = seen(serving(), *[NORMAL] * 5, *[SHIFTED] * 12)
    held, _ = seen(promoted(alarm, gained=False))
    back = replace(serving(held), versions=(replace(serves, gained=True, judged=ago(200)),))
    found, _ = seen(replace(back, revisions=(revision(back, serves, "stable", 2),)))
    assert (found.alarm, found.version) == (True, serves.name)


def test_without_figures_nothing_changes() -> None:
    before, _ = seen(serving(), NORMAL)
    after, events = check_drift(situation_of(serving(before), SETTINGS, NOW))
    assert after == before
    assert events == ()


def test_a_disabled_watch_has_no_status() -> None:
    assert check_drift(situation_of(serving(enabled=False), SETTINGS, NOW)) == (None, ())
    disabled = serving(DriftStatus(version="v1", consumed_until=timestamp(ago(60))), enabled=False)
    assert window(situation_of(disabled, SETTINGS, NOW)) is None


def test_counters_are_read_when_a_window_is_over() -> None:
    def span(seconds: float, name: str = "v1") -> object:
        return window(
            situation_of(serving(DriftStatus(version=name, consumed_until=timestamp(ago(seconds)))), SETTINGS, NOW)
        )

    assert span(60) == (ago(60), ago(5))
    assert span(14) is None  # too short
    assert span(60, "v0") is None  # another version: the watch starts anew
    assert window(situation_of(serving(), SETTINGS, NOW)) is None
