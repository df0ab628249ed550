from pathlib import Path

import pytest

from driftloop.contract import result
from driftloop.contract.names import TERMINATION_ENV
from driftloop.contract.phase import BESIDE_STEPS, tell, told
from driftloop.contract.result import StageError


@pytest.fixture
def message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the termination message, as the kubelet makes it."""
    path = tmp_path / "termination"
    path.touch()
    monkeypatch.setenv(TERMINATION_ENV, str(path))
    return path


def test_what_a_pod_does_beside_its_steps_is_its_termination_message(message: Path) -> None:
    assert told() is None
    for phase in BESIDE_STEPS:
        tell(phase)
        assert told() == phase
    tell(None)
    assert (message.read_text(), told()) == ("", None)  # then the kubelet takes the end of the log


def test_a_result_or_an_error_of_the_pod_stays(message: Path) -> None:
    result.emit(StageError(reason="OutOfMemory", message="rank 0: no memory"))
    written = message.read_text()
    tell("export")
    tell(None)
    assert (message.read_text(), told()) == (written, None)


def test_outside_a_pod_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TERMINATION_ENV, str(tmp_path / "none"))
    tell("loading")
    assert (list(tmp_path.iterdir()), told()) == ([], None)
