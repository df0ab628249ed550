import pytest

from demo.timeline import Timeline, bar, clock


@pytest.mark.parametrize(
    ("percent", "text"), [(-5, "[" + "-" * 24 + "]"), (50, "[" + "#" * 12), (130, "[" + "#" * 24 + "]")]
)
def test_a_bar_stays_in_its_frame(percent: float, text: str) -> None:
    assert bar(percent).startswith(text)


def test_a_clock_shows_minutes_and_seconds() -> None:
    assert clock(125.9) == "02:05"


def test_events_are_kept_for_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    timeline = Timeline()
    timeline.event("the domain shifts")
    assert timeline.events[0]["event"] == "the domain shifts"
    assert "[00:00] the domain shifts" in capsys.readouterr().out
