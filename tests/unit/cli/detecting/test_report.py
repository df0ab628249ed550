"""The verdict and the exit code: only what was compared is good."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from driftloop.api.inferenceservice import Drift, DriftStatus, ReferenceSignal
from driftloop.cli.detecting.reading import Counts, Fault
from driftloop.cli.detecting.report import Report, verdict
from driftloop.cli.detecting.stream import Alarm
from driftloop.cli.exits import Exit
from driftloop.contract.topics import Topic

AT = datetime(2026, 1, 3, tzinfo=UTC)
LEARNED = DriftStatus(
    since="2026-01-01T00:00:00Z",
    consumed_until="2026-01-03T00:00:00Z",
    baseline=[ReferenceSignal(signal="length", counts=[300, 200])],
)
UP = LEARNED.model_copy(update={"alarm": True, "evidence": {"length": "20"}, "shift": {"length": "0.5"}})
ALARM = Alarm(AT, "drift: length rose", AT)


@pytest.mark.parametrize(
    ("status", "alarms", "compared", "exit_code", "told"),
    [
        (LEARNED, (), 10, Exit.DONE, "no drift: 10 requests compared with 500 that are normal"),
        (LEARNED, (), 0, Exit.FAILED, "nothing to compare: no new request since 2026-01-03T00:00:00Z"),
        (DriftStatus(), (), 0, Exit.FAILED, "learning what is normal: 0/300 requests"),
        (LEARNED, (ALARM,), 10, Exit.DRIFTED, "drift: length rose; ended 2026-01-03T00:00:00Z"),
        (UP, (), 0, Exit.DRIFTED, "drift: length rose by 0.50 standard deviations"),
    ],
)
def test_the_verdict_and_its_exit_code(
    status: DriftStatus, alarms: tuple[Alarm, ...], compared: int, exit_code: Exit, told: str
) -> None:
    report = Report(verdict(status, alarms, Drift(), compared), status, alarms)
    assert (report.exit, report.text()) == (exit_code, told)


TOPIC = Topic(("refund", "my refund"), 0.0144, 0.1182, 59, ("log line 5", "log line 9"))


@pytest.mark.parametrize(
    ("topics", "counts", "told"),
    [
        (
            (TOPIC,),
            Counts(),
            '  more requests with "refund", "my refund": 1.4 % before, 12 % since (59): log line 5, log l',
        ),
        ((), Counts(), "  no word is in many more requests than before"),
        (None, Counts(), "  what they are about is unknown: this run has fewer than 20 requests before or after it"),
        (None, None, "drift: length rose; ended 2026-01-03T00:00:00Z"),
    ],
)
def test_an_alarm_says_what_its_requests_are_about(
    topics: tuple[Topic, ...] | None, counts: Counts | None, told: str
) -> None:
    alarms = tuple(replace(ALARM, topics=topics) for _ in range(2))
    report = Report(verdict(LEARNED, alarms, Drift(), 10), LEARNED, alarms, counts)
    lines = report.text().splitlines()
    assert len(lines) == (2 if counts is None else 4)
    assert lines[-1].startswith(told)
    (first, _) = report.document()["alarms"]
    assert first["topics"] == (None if topics is None else [vars(topic) for topic in topics])


def test_the_first_unreadable_lines_are_named_and_the_others_counted() -> None:
    counts = Counts(unreadable=5, faults=[Fault("log", 3, "not JSON, or cut off")])
    report = Report(verdict(LEARNED, (), Drift(), 10), LEARNED, (), counts)
    assert report.text().splitlines()[:2] == [
        "not readable: log line 3: not JSON, or cut off",
        "not readable: 4 more lines",
    ]
    assert report.document()["lines"]["first"] == [{"source": "log", "line": 3, "reason": "not JSON, or cut off"}]
