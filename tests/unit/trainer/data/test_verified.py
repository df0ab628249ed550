"""A file whose digest is known is checked before it is read."""

from pathlib import Path

import pytest

from driftloop.contract.manifest import file_sha256
from driftloop.contract.names import VOLUMES_ENV
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.verified import fetch_verified

URI = "pvc://claim/rows.jsonl"


def test_a_file_with_another_digest_is_refused_and_one_without_a_digest_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VOLUMES_ENV, str(tmp_path))
    file = tmp_path / "claim" / "rows.jsonl"
    file.parent.mkdir()
    file.write_text("{}")
    digest = f"sha256:{file_sha256(file)}"
    assert fetch_verified(URI, None, tmp_path, "rows") == fetch_verified(URI, digest, tmp_path, "rows") == file
    file.write_text("[]")
    with pytest.raises(StageFailure, match=f"rows: {URI} has sha256:.*, expected {digest}: the file has changed"):
        fetch_verified(URI, digest, tmp_path, "rows")
