"""Log lines."""

import json
import logging

from driftloop.contract.logs import JsonFormatter
from driftloop.controller.runtime.logs import working_on
from driftloop.controller.vocabulary.plan import Key


def line() -> dict[str, str]:
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "said %s", ("so",), None)
    found = json.loads(JsonFormatter().format(record))
    assert isinstance(found, dict)
    return found


def test_a_line_names_the_object_that_is_worked_on() -> None:
    with working_on(Key("FineTuneJob", "ns", "a")):
        found = line()
    assert (found["kind"], found["namespace"], found["name"], found["message"]) == ("FineTuneJob", "ns", "a", "said so")
    assert "name" not in line()
