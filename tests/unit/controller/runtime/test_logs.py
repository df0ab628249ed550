"""Log lines."""

import json
import logging
import sys

from driftloop.controller.runtime.logs import JsonFormatter, working_on
from driftloop.controller.vocabulary.plan import Key


def line(**more: object) -> dict[str, str]:
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "said %s", ("so",), None)
    record.__dict__.update(more)
    found = json.loads(JsonFormatter().format(record))
    assert isinstance(found, dict)
    return found


def test_a_line_names_the_object_that_is_worked_on() -> None:
    with working_on(Key("FineTuneJob", "ns", "a")):
        found = line()
    assert (found["kind"], found["namespace"], found["name"], found["message"]) == ("FineTuneJob", "ns", "a", "said so")
    assert "name" not in line()


def test_an_error_is_told_with_its_trace() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        found = line(exc_info=sys.exc_info())
    assert "ValueError: broken" in found["error"]
