"""A tracker that is down, slow or broken never keeps a training waiting, and gets what it missed when it is back."""

import http.server
import logging
import math
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from driftloop_trainer.train.tracking import reporting as module
from driftloop_trainer.train.tracking.mlflow import MLflow
from driftloop_trainer.train.tracking.reporting import Reporting
from driftloop_trainer.train.tracking.tracker import Ending, Row, Training

TRAINING = Training("uid", "job", "desk")
STEPS = 2_000


class Kept:
    """A tracker in memory. It fails as often as it is told."""

    name = "kept"

    def __init__(self, failures: int = 0, blocked: threading.Event | None = None) -> None:
        self.failures, self.blocked = failures, blocked
        self.rows: list[Row] = []
        self.opened = 0
        self.ending: list[Ending | None] = []

    def _call(self) -> None:
        if self.blocked is not None:
            self.blocked.wait(60)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("http://user:hunter2@tracker refused the connection")

    def open(self) -> None:
        self._call()
        self.opened += 1

    def write(self, rows: Sequence[Row]) -> None:
        self._call()
        self.rows += rows

    def close(self, ending: Ending | None) -> None:
        self._call()
        self.ending.append(ending)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    monkeypatch.setattr(module, "_PAUSES", (0.01,))
    monkeypatch.setattr(module, "_CLOSE", 0.5)


def send(reporting: Reporting, steps: int = STEPS) -> float:
    """Report so many steps. Returns the longest time that one of them took, in seconds."""
    longest = 0.0
    for step in range(1, steps + 1):
        started = time.perf_counter()
        reporting(step, {"loss": 1 / step})
        longest = max(longest, time.perf_counter() - started)
    return longest


def test_all_steps_arrive_in_order_and_then_the_end() -> None:
    one, two = Kept(), Kept()
    reporting = Reporting([one, two])
    send(reporting)
    reporting.close("FINISHED")
    for tracker in (one, two):
        assert [row.step for row in tracker.rows] == list(range(1, STEPS + 1))
        assert tracker.rows[1].values == {"loss": 0.5}
        assert (tracker.opened, tracker.ending) == (1, ["FINISHED"])


def test_what_a_tracker_missed_is_sent_again_in_order() -> None:
    tracker = Kept(failures=5)
    reporting = Reporting([tracker])
    send(reporting)
    until = time.monotonic() + 30
    while tracker.failures and time.monotonic() < until:
        time.sleep(0.01)
    reporting.close(None)
    assert [row.step for row in tracker.rows] == list(range(1, STEPS + 1))
    assert tracker.ending == [None]


def test_a_tracker_that_hangs_delays_neither_the_training_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    hanging, other = Kept(blocked=release), Kept()
    reporting = Reporting([hanging, other])
    assert send(reporting) < 0.5
    started = time.monotonic()
    reporting.close("FINISHED")
    assert time.monotonic() - started < 5
    assert len(other.rows) == STEPS
    assert f"kept did not take everything: {STEPS} steps are not in it" in caplog.text
    release.set()


def test_no_more_rows_wait_than_fit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    release = threading.Event()
    tracker = Kept(blocked=release)
    reporting = Reporting([tracker])
    send(reporting, 25)
    release.set()
    reporting.close("FINISHED")
    assert [row.step for row in tracker.rows] == list(range(1, 11))
    assert "15 steps are not in it" in caplog.text


def test_a_tracker_that_is_down_is_logged_once_without_its_credentials(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tracker = Kept(failures=1_000_000)
    reporting = Reporting([tracker])
    send(reporting, 3)
    time.sleep(0.2)
    reporting.close("FAILED")
    assert "hunter2" not in caplog.text
    assert caplog.text.count("training goes on") == 1
    assert tracker.ending == []


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["silent", "closed", "unknown"])
def test_an_mlflow_server_that_is_down_costs_a_step_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_server() as port:
        hosts = {"silent": f"127.0.0.1:{port}", "closed": "127.0.0.1:9", "unknown": "mlflow.invalid"}
        reporting = Reporting([MLflow(f"http://{hosts[kind]}", TRAINING, {})])
        assert send(reporting) < 0.5
        started = time.monotonic()
        reporting.close("FINISHED")
        assert time.monotonic() - started < 5


class _Answers(http.server.BaseHTTPRequestHandler):
    """Records the credentials that it gets, and sends everyone elsewhere."""

    seen: list[str | None] = []  # noqa: RUF012 - one per test run

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization"))
        self.send_response(302)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("environment", "header"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "t0ken"}, "Bearer t0ken"),
        ({"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "hunter2"}, "Basic bWU6aHVudGVyMg=="),
        ({}, None),
    ],
)
def test_credentials_go_to_the_server_alone_and_into_no_log(
    environment: dict[str, str], header: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    _Answers.seen = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reporting = Reporting([MLflow(f"http://127.0.0.1:{server.server_address[1]}", TRAINING, environment)])
        reporting(1, {"loss": math.pi})
        reporting.close("FINISHED")
        server.shutdown()
    assert set(_Answers.seen) == {header}
    assert "HTTP 302" in caplog.text
    assert not any(secret in caplog.text for secret in ("t0ken", "hunter2", "bWU6aHVudGVyMg"))
