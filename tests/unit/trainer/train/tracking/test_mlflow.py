"""Against a real MLflow server, in a virtual environment of its own."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driftloop.cli.gating.ports import free_ports
from driftloop_trainer.train.tracking.mlflow import MLflow
from driftloop_trainer.train.tracking.reporting import Reporting
from driftloop_trainer.train.tracking.tracker import Refused, Row, Training

pytestmark = [pytest.mark.long("trackers"), pytest.mark.timeout(900)]

VERSION = "3.17.2"
ENVIRONMENT = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "driftloop", f"mlflow-{VERSION}")
INSTALL_SECONDS, START_SECONDS = 600, 120
TRAINING = Training("uid", "tune", "desk", {"learningRate": "2e-05"}, {"driftloop.family": "desk"})


@pytest.fixture(scope="module")
def installed() -> Path:
    """The command `mlflow`. The first call installs it; later ones find it."""
    command = ENVIRONMENT / "bin" / "mlflow"
    if not (ENVIRONMENT / "ready").exists():
        uv = [sys.executable, "-m", "uv"]
        for arguments in (
            [*uv, "venv", "-q", "--clear", str(ENVIRONMENT)],
            [*uv, "pip", "install", "-q", "-p", str(ENVIRONMENT / "bin" / "python"), f"mlflow=={VERSION}"],
        ):
            subprocess.run(arguments, check=True, timeout=INSTALL_SECONDS)
        (ENVIRONMENT / "ready").touch()
    return command


@pytest.fixture(scope="module")
def server(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that keeps its runs in a new SQLite file."""
    folder = tmp_path_factory.mktemp("mlflow")
    (port,) = free_ports(1)
    store = f"sqlite:///{folder}/mlflow.db"
    command = [str(installed), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while not _healthy(url):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def asked(url: str, path: str, document: dict[str, Any] | None = None) -> Any:
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def runs(url: str, experiment: str) -> list[Any]:
    found = asked(url, f"experiments/get-by-name?experiment_name={experiment}")["experiment"]["experiment_id"]
    return list(asked(url, "runs/search", {"experiment_ids": [found]})["runs"])


def history(url: str, run: Any, key: str) -> list[tuple[int, float]]:
    metrics = asked(url, f"metrics/get-history?run_id={run['info']['run_id']}&metric_key={key}")["metrics"]
    return [(int(metric["step"]), metric["value"]) for metric in metrics]


def rows(first: int, last: int) -> list[Row]:
    return [
        Row(step, time.time(), {"loss": 10.0 - step, "reward_margin": float("nan") if step == 2 else 0.5})
        for step in range(first, last + 1)
    ]


def test_a_training_is_a_run_with_its_settings_curve_and_end(server: str) -> None:
    tracker = MLflow(server, TRAINING, {})
    tracker.open()
    tracker.write(rows(1, 4))
    (run,) = runs(server, "desk")
    assert run["info"]["status"] == "RUNNING"
    tracker.close("FINISHED")
    (run,) = runs(server, "desk")
    assert (run["info"]["run_name"], run["info"]["status"]) == ("tune", "FINISHED")
    assert {param["key"]: param["value"] for param in run["data"]["params"]} == {"learningRate": "2e-05"}
    assert {"key": "driftloop.family", "value": "desk"} in run["data"]["tags"]
    assert history(server, run, "loss") == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)]
    assert [step for step, _ in history(server, run, "reward_margin")] == [1, 3, 4]  # MLflow takes no NaN


def test_a_restart_continues_the_run_and_has_no_step_twice(server: str) -> None:
    training = Training("other-uid", "again", "restarts", {"seed": "0"})
    for first, last, ending in ((1, 5, None), (4, 6, "FINISHED")):
        reporting = Reporting([MLflow(server, training, {})])
        for row in rows(first, last):
            reporting(row.step, row.values)
        reporting.close(ending)  # type: ignore[arg-type]
    (run,) = runs(server, "restarts")
    assert [step for step, _ in history(server, run, "loss")] == [1, 2, 3, 4, 5, 6]
    assert run["info"]["status"] == "FINISHED"


def test_thousands_of_steps_are_written_in_requests_that_mlflow_takes(server: str) -> None:
    tracker = MLflow(server, Training("long", "long", "long"), {})
    tracker.open()
    tracker.write(rows(1, 1500))
    (run,) = runs(server, "long")
    found = {metric["key"]: int(metric["step"]) for metric in run["data"]["metrics"]}
    assert found == {"loss": 1500, "reward_margin": 1500}


def test_an_answer_that_refuses_says_why(server: str) -> None:
    tracker = MLflow(server, Training("uid", "job", "desk"), {})
    tracker.open()
    with pytest.raises(Refused, match="HTTP 400 for runs/log-batch: INVALID_PARAMETER_VALUE"):
        tracker.write([Row(1, 0.0, {"not a name: ?": 1.0})])
