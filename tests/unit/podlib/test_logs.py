"""Every line that a container leaves in its log has one form."""

import io
import json
import os
import subprocess
import sys
import threading

import pytest

from driftloop.podlib.logs import Lines, relay

PRINTS = """
import sys, warnings
from driftloop.podlib import logs
logs.setup()
import logging
logging.getLogger("ours").info("step %d/%d", 3, 9)
print("printed", 1, "thing")
print("a\\nb", file=sys.stderr)
sys.stderr.write("\\r 10%")
sys.stderr.write("\\r100%\\n")
warnings.warn("old")
logging.getLogger("theirs").addHandler(logging.StreamHandler())
logging.getLogger("theirs").propagate = False
logging.getLogger("theirs").warning("their own handler")
raise ValueError("boom")
"""


def printed(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "printed"]


def test_what_is_logged_printed_and_raised_are_lines_of_one_form() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", PRINTS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    messages = [line["message"] for line in lines]
    assert messages[:5] == ["step 3/9", "printed 1 thing", "a", "b", "100%"]
    assert "UserWarning: old" in messages[5]
    assert messages[6] == "their own handler"
    assert messages[-1] == "ValueError: boom"


def test_threads_do_not_mix_their_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    stream = Lines(io.StringIO())
    stream.write("one ")
    other = threading.Thread(target=stream.write, args=["other\n"])
    other.start()
    other.join()
    stream.write("line\n")
    assert printed(caplog) == ["other", "one line"]


@pytest.mark.parametrize("parts", [["\r 10%", "\r 50%", "\rdone\n"], [" 10%\r", " 50%\r", "done\n"], ["x\rdone\r\n"]])
def test_of_a_progress_bar_the_end_is_logged(caplog: pytest.LogCaptureFixture, parts: list[str]) -> None:
    caplog.set_level("INFO")
    stream = Lines(io.StringIO())
    for part in parts:
        stream.write(part)
    assert printed(caplog) == ["done"]


def test_a_log_that_can_not_be_written_does_not_complain_for_ever() -> None:
    script = "from driftloop.podlib import logs; logs.setup(); import sys; sys.__stderr__.close(); print('x')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode in (0, 120)  # 120: Python couldn't flush what is closed


def test_what_a_command_prints_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    relay(io.BytesIO(b"Ray runtime started.\n\n\xff\nlast"))
    assert printed(caplog) == ["Ray runtime started.", "\ufffd", "last"]
