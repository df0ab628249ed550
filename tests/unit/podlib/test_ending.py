import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.manifest import ManifestError
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import AnyResult, StageError, encode
from driftloop.podlib.ending import StageFailure, bounded, run_stage
from driftloop.podlib.storage import StorageError


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (StageFailure(StageReason.EMPTY_DATA, "no row"), "EmptyData", 78),
        (StageFailure(StageReason.NODES_MISSING, "one of two", 75), "NodesMissing", 75),
        (ManifestError("digest is another"), "DigestMismatch", 78),
        (StorageError("pvc://c/x: no such file"), "StorageUnreadable", 78),
        (StorageError("s3://b/x: no answer", passing=True), "StorageUnreadable", 75),
        (RuntimeError("out of luck"), "Unexpected", 75),
        (RuntimeError("y" * 9000), "Unexpected", 75),
    ],
)
def test_a_failure_is_told_with_its_reason_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str, code: int
) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setenv("DRIFTLOOP_TERMINATION_LOG", str(log))

    def stage() -> AnyResult:
        raise error

    assert run_stage(stage) == code
    told = json.loads(log.read_text())
    assert told["kind"] == "Error"
    assert told["reason"] == reason
    assert len(log.read_bytes()) <= 4096


@given(st.one_of(st.text(), st.text(alphabet='"\\\n\x00é🦙', min_size=1).map(lambda text: text * 3000)))
def test_any_message_fits_into_a_termination_message(message: str) -> None:
    assert encode(StageError(reason="R" * 63, message=bounded(message)))
