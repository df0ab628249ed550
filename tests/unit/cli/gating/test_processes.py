"""Processes of pods on this machine: what they report, how much of their output is kept, and how they end."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driftloop.cli.gating import processes
from driftloop.cli.gating.processes import NotJudged, Process, running, wait_for
from driftloop.contract.task import ServeTask

TASK = ServeTask.model_validate(
    {
        "namespace": "gate",
        "service": "gate",
        "serviceUid": "gate",
        "family": "gate",
        "version": "candidate",
        "revision": "evaluation",
        "artefactUri": "pvc://gate/candidate",
        "artefactDigest": f"sha256:{'a' * 64}",
    }
)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `scripted` that processes can run."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(path for path in sys.path if path)}")
    return tmp_path / "scripted.py"


def ended(folder: Path, module: str, seconds: float = 120) -> Process:
    task = TASK.model_copy(update={"model_dir": str(folder / "model")})
    with running("the stage", module, task, folder / "own", folder / "volumes") as process:
        wait_for(process, seconds)
    return process


def test_the_error_that_a_stage_reports_is_the_problem(tmp_path: Path) -> None:
    with pytest.raises(NotJudged, match=r"the stage: StorageUnreadable: pvc://gate/candidate: .*no such folder"):
        ended(tmp_path, "driftloop_server.fetch")


def test_without_a_report_the_end_of_the_output_is_the_problem_and_only_an_end_is_kept(
    tmp_path: Path, script: Path
) -> None:
    script.write_text("for n in range(5000): print('line', n)\nprint('x' * 100_000)\nraise SystemExit(3)")
    with pytest.raises(NotJudged, match="the stage ended with code 3, without a result") as caught:
        ended(tmp_path, "scripted")
    assert len(str(caught.value)) < processes.SHOWN + 200
    script.write_text("for n in range(5000): print('line', n)")
    assert list(ended(tmp_path, "scripted").lines)[-1] == "line 4999"
    assert len(ended(tmp_path, "scripted").lines) <= processes.KEPT_LINES


def test_a_process_that_lasts_too_long_is_ended(tmp_path: Path, script: Path) -> None:
    script.write_text("import time\ntime.sleep(600)")
    with pytest.raises(NotJudged, match=r"the stage did not end within 0\.5 s"):
        ended(tmp_path, "scripted", seconds=0.5)


def test_a_process_that_ignores_sigterm_is_killed(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.5)
    script.write_text(
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(600)"
    )
    with running("it", "scripted", TASK, tmp_path / "own", tmp_path) as process:
        while "ready" not in process.lines:
            assert process.code is None
    assert process.code == -9


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt. It is ignored in what a shell has started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_process_that_has_just_started_is_not_left_by_an_interrupt(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.write_text("import time\ntime.sleep(600)")
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        """Gets the signal before whoever starts it knows the process."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt), running("it", "scripted", TASK, tmp_path / "own", tmp_path):
        pass
    assert started[0].returncode is not None


def test_a_client_does_not_wait_for_an_engine_that_has_ended(tmp_path: Path, script: Path) -> None:
    script.write_text("import time\ntime.sleep(600)")
    (tmp_path / "broken.py").write_text("raise SystemExit(4)")
    with (
        running("the engine", "broken", TASK, tmp_path / "engine", tmp_path) as engine,
        running("the client", "scripted", TASK, tmp_path / "client", tmp_path) as client,
        pytest.raises(NotJudged, match="the engine ended with code 4"),
    ):
        wait_for(client, 120, [engine])


def test_a_file_of_the_working_directory_replaces_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "driftloop_server").mkdir()
    (tmp_path / "driftloop_server" / "fetch.py").write_text("print('not ours')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotJudged, match="the stage: StorageUnreadable"):
        ended(tmp_path, "driftloop_server.fetch")


def test_a_task_in_the_environment_of_the_command_is_not_taken_for_that_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLOOP_TASK", "{}")
    with pytest.raises(NotJudged, match="the stage: StorageUnreadable"):
        ended(tmp_path, "driftloop_server.fetch")
