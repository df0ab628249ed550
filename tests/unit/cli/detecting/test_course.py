"""Progress: a line now and then in a log, and one for each begin and end of an alarm."""

import io

from driftloop.api.inferenceservice import DriftStatus
from driftloop.cli.detecting.course import LOG_SECONDS, Course
from driftloop.cli.output import Progress


def test_thousands_of_windows_are_few_lines_and_no_alarm_is_missed() -> None:
    now, stream = 0.0, io.StringIO()
    course = Course(Progress("detect", stream), clock=lambda: now)
    for number in range(3000):
        alarm = number in (1000, 1001)
        course.show(DriftStatus(consumed_until=f"{number}", alarm=alarm, message="drift: x" if alarm else "calm"))
        now += LOG_SECONDS / 1000
    course.end()
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if "drift" in line] == ["detect: 1000: drift: x"]
    assert "detect: 1002: calm" in lines
    assert len(lines) < 8
