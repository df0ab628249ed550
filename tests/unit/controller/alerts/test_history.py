"""Past alerts and silences."""

from typing import Any

import pytest

from driftloop.controller.alerts.history import Silence, fired, relevant, selector, silences
from driftloop.controller.runtime.readings.prometheus import Series

LABELS = {"__name__": "ALERTS", "alertstate": "firing", "alertname": "Drift", "inference_service": "support"}


def series(*times: float, **labels: str) -> Series:
    return Series(LABELS | labels, tuple((at, 1.0) for at in times))


def silence(starts: float, ends: float, **matcher: Any) -> Silence:
    return Silence(({"name": "inference_service", "value": "support", "isRegex": False} | matcher,), starts, ends)


def test_an_episode_is_one_alert_from_its_first_to_its_last_sample() -> None:
    [found] = fired([series(100, 115, 130)], [])
    assert (found.started.timestamp(), found.ended and found.ended.timestamp()) == (100, 130)
    assert found.labels == {"alertname": "Drift", "inference_service": "support"}


def test_a_pause_makes_two_alerts_and_a_gap_does_not() -> None:
    assert len(fired([series(0, 15, 30, 1000, 1015)], [])) == 2
    assert len(fired([series(0, 15, 200, 215)], [])) == 1


def test_what_was_silenced_throughout_does_not_count() -> None:
    two, one = series(100, 115), series(100)
    assert fired([two], [(silence(0, 200), [two])]) == []
    assert len(fired([two], [(silence(0, 110), [two])])) == 1
    assert fired([two], [(silence(0, 110), [two]), (silence(105, 200), [two])]) == []
    assert len(fired([one], [(silence(0, 200), [series(100, inference_service="other")])])) == 1


def test_silences_of_another_time_are_not_asked_for() -> None:
    during = [silence(0, 100), silence(110, 112), silence(115, 200)]
    assert relevant([series(100, 115)], [silence(0, 99), *during, silence(116, 200)]) == during
    assert relevant([], during) == []


@pytest.mark.parametrize(
    ("matcher", "text"),
    [
        ({"value": "supp.*", "isRegex": True}, 'inference_service=~"supp.*"'),
        ({"value": "(a|aa)+", "isRegex": True, "isEqual": False}, 'inference_service!~"(a|aa)+"'),
        ({"value": "support", "isEqual": False}, 'inference_service!="support"'),
        ({"name": "absent", "value": ""}, 'absent=""'),
        ({"name": 'a"b.c', "value": 'x\\"\n'}, '"a\\"b.c"="x\\\\\\"\\n"'),
    ],
)
def test_a_silences_matchers_are_left_to_prometheus(matcher: Any, text: str) -> None:
    """Python's expressions may take hours, and meanwhile nothing could end the process without its Lease."""
    found = selector(["Drift"], 60, silence(0, 10, **matcher))
    assert found == f'ALERTS{{alertstate="firing",alertname=~"Drift",{text}}}[60s]'


def test_a_silence_is_read_from_the_api() -> None:
    raw = {
        "matchers": [{"name": "a", "value": "b"}],
        "startsAt": "1970-01-01T00:00:01Z",
        "endsAt": "1970-01-01T00:01:00Z",
    }
    assert silences([raw]) == [Silence(({"name": "a", "value": "b"},), 1.0, 60.0)]


TIMES = {"startsAt": "1970-01-01T00:00:01Z", "endsAt": "1970-01-01T00:01:00Z"}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [1],
        [{"matchers": []}],
        [{"matchers": [], "startsAt": "x", "endsAt": "y"}],
        [{"matchers": [], "startsAt": 1, "endsAt": 2}],
        [{"matchers": [7]} | TIMES],
        [{"matchers": ["name"]} | TIMES],
        [{"matchers": None} | TIMES],
    ],
)
def test_an_answer_that_holds_no_silences_is_an_error_and_not_none_of_them(answer: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        silences(answer)


def test_names_are_quoted_for_promql() -> None:
    assert selector(['a"b', "c.d"], 60.4) == 'ALERTS{alertstate="firing",alertname=~"a\\"b|c\\\\.d"}[60s]'
