"""The detector on a stream: reference, windows, alarms, and going on where an earlier run ended."""

from datetime import timedelta
from typing import Any

import pytest

from driftloop.api.inferenceservice import Drift, DriftStatus
from driftloop.cli.detecting.stream import SUBJECT, Stream
from driftloop.contract.shares import Shares
from driftloop.contract.textstats import build_profile, parse_profile
from driftloop.controller.drift.detector import Counters
from driftloop.controller.drift.memory import remembered, rows, seen
from driftloop.controller.drift.watch import watch
from driftloop.controller.vocabulary.conditions import parse_timestamp
from unit.cli.detecting.streams import NEW, OLD, REFERENCE, START, Sent, requests

SPEC = Drift(baseline_minimum_hours=3)
PROFILE = build_profile(REFERENCE)


def stream(**given: Any) -> Stream:
    fields: dict[str, Any] = {"spec": SPEC, "reference_requests": 200, "profile": PROFILE}
    return Stream(**(fields | given))


def given(to: Stream, sent: list[Sent]) -> Stream:
    for at, text, user in sent:
        to.take(at, text, user)
    return to


def test_each_window_is_a_check_of_the_operators_detector() -> None:
    sent, profile = list(requests(OLD, 9)), parse_profile(PROFILE)
    found = given(stream(), sent)
    status = watch(DriftStatus(), SUBJECT, None, SPEC, START)
    while status.consumed_until != found.status.consumed_until:
        begin = parse_timestamp(status.consumed_until or "")
        bins = {signal: [0.0] * len(shares) for signal, shares in profile.masses().items()}
        for _, text, _ in (s for s in sent if begin <= s[0] < begin + timedelta(minutes=1)):
            for signal, index in profile.bins(text).items():
                bins[signal][index] += 1
        until = begin + timedelta(minutes=1)
        status = watch(status, SUBJECT, Counters(until, bins, profile.masses(), profile.rows), SPEC, until)
    assert found.left_out == 0
    assert found.status == status
    assert status.requests > 500


def test_requests_of_the_same_kind_raise_no_alarm_and_a_new_product_does() -> None:
    calm = given(stream(), list(requests(OLD, 16)))
    assert calm.alarms == []
    since = START + timedelta(hours=16)
    shifted = given(calm, list(requests(NEW, 3, since)))
    assert shifted.alarm
    assert shifted.alarms[0].raised <= since + timedelta(hours=2)
    change_point = parse_timestamp(shifted.status.change_point or "")
    assert since - timedelta(minutes=30) <= change_point <= shifted.alarms[0].raised
    assert shifted.alarms[0].message.startswith("drift: ")


def test_an_alarm_says_what_the_new_requests_are_about_and_where_they_are() -> None:
    since = START + timedelta(hours=16)
    found, texts = stream(), {}
    for number, (at, text, user) in enumerate([*requests(OLD, 16), *requests(NEW, 3, since)], 1):
        texts[f"log line {number}"] = text
        found.take(at, text, user, f"log line {number}")
    raised = found.alarms[0].topics
    found.end()
    told = found.alarms[0].topics
    assert raised
    assert told
    assert {"pedelec", "bike"} <= {term for topic in told for term in topic.terms}
    assert all(topic.since > 0.05 > topic.before for topic in told)
    assert [topic.terms[0] in texts[name].casefold() for topic in told for name in topic.examples] == [True] * 9
    assert told[0].requests > raised[0].requests  # at the end all requests since the change are known


def test_requests_of_an_earlier_run_are_compared_with_and_not_counted_again() -> None:
    since = START + timedelta(hours=16)
    first = given(stream(), list(requests(OLD, 16)))
    first.end()
    alone, with_log = (stream(status=first.status, shares=Shares()) for _ in range(2))
    for at, text, user in requests(OLD, 16):
        with_log.remember(at, text, user, "")
        with_log.remember(at, "ping", "bot", "")
    for found in (alone, with_log):
        given(found, list(requests(NEW, 3, since))).end()
    assert alone.status == with_log.status
    assert with_log.alarms[0].topics
    assert "pedelec" in {term for topic in with_log.alarms[0].topics for term in topic.terms}
    assert alone.alarms[0].topics is None


def test_the_first_requests_make_the_reference_and_are_not_part_of_the_baseline() -> None:
    sent = list(requests(OLD, 12))
    found = given(stream(profile=None), sent)
    found.end()
    assert parse_profile(found.profile).rows > 50
    assert found.collected == 0
    assert parse_timestamp(found.status.since or "") > sent[199][0]
    assert len(sent) - 220 < rows(seen(remembered(found.status))) <= len(sent) - 200


def test_the_reference_has_no_word_of_a_single_text() -> None:
    sent = [
        (at, f"{text} xyzzy{'q' * number}" if number == 7 else text, user)
        for number, (at, text, user) in enumerate(requests(OLD, 3))
    ]
    found = given(stream(profile=None), sent)
    assert found.profile is not None
    assert not any("xyzzy" in word for word in {*found.profile["words"], *found.profile["pairs"]})
    assert set(build_profile(["rare word here", "rare thing there", "rare word again"] * 3, shared=2)["words"]) <= {
        "rare",
        "word",
    }


@pytest.mark.parametrize("cut", [100, 997])
def test_a_later_run_goes_on_as_if_there_were_no_pause(cut: int) -> None:
    sent = list(requests(OLD, 12))
    first = given(stream(), sent[:cut])
    first.end()
    until = parse_timestamp(first.status.consumed_until or "")
    rest = [request for request in sent[cut:] if request[0] >= until]
    second = given(stream(status=first.status, shares=first.shares), rest)
    second.end()
    whole = given(stream(), sent)
    whole.end()
    assert len(rest) >= len(sent) - cut - 1
    assert second.status.consumed_until == whole.status.consumed_until
    assert abs(second.status.requests - whole.status.requests) <= 1
    # One window more, which the end of the first run has cut in two.
    assert float(second.status.log_evidence or 0) == pytest.approx(float(whole.status.log_evidence or 0), abs=0.3)


def test_a_request_that_comes_late_counts_in_the_window_that_is_open() -> None:
    sent = list(requests(OLD, 4))
    late = [*sent[:50], *sent[51:60], sent[50], *sent[60:]]
    assert given(stream(), late).status.consumed_until == given(stream(), sent).status.consumed_until


@pytest.mark.parametrize("silence", [timedelta(hours=30), timedelta(days=400)])
def test_a_long_silence_takes_few_windows(silence: timedelta) -> None:
    found = given(stream(), list(requests(OLD, 4)))
    checks = 0
    check = found._check

    def counted(until: Any) -> None:
        nonlocal checks
        checks += 1
        check(until)

    found._check = counted  # type: ignore[method-assign]
    found.take(START + timedelta(hours=4) + silence, OLD[0], None)
    assert checks < 40
    assert not found.alarm


def test_one_text_again_and_again_is_left_out() -> None:
    sent = list(requests(OLD, 16))
    with_bot = [request for each in sent for request in (each, (each[0], "ping", "bot"))]
    found = given(stream(), with_bot)
    assert found.alarms == []
    assert found.left_out > 0.9 * len(sent)
