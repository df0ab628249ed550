"""Log lines of all images."""

import json
import logging
import sys

from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.logs import JsonFormatter, message_of, naming


def formatted(message: str, **more: object) -> str:
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "%s", (message,), None)
    record.__dict__.update(more)
    return JsonFormatter().format(record)


def line(**more: object) -> dict[str, str]:
    found = json.loads(formatted("said so", **more))
    assert isinstance(found, dict)
    return found


def test_a_line_says_when_who_and_what() -> None:
    found = line(created=0.25)
    assert found == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "warning",
        "logger": "x",
        "message": "said so",
    }


def test_a_line_has_what_was_named_around_it() -> None:
    with naming(service="desk"):
        assert line()["service"] == "desk"
    assert "service" not in line()


def test_an_error_is_told_with_its_trace() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        found = line(exc_info=sys.exc_info())
    assert "ValueError: broken" in found["error"]


@given(st.text())
def test_any_message_is_one_line_whose_end_is_found_again(message: str) -> None:
    found = formatted(message)
    assert "\n" not in found
    assert message_of(found) == message.strip().rsplit("\n", 1)[-1]
