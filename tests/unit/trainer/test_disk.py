import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import StorageError
from driftloop_trainer.disk import disk, room

# Writes below a folder with room for 1 MiB, in a mount namespace of its own. argv: the folder, what to write, what is
# needed. Prints the failure's reason, exit code and message.
SMALL = """
import sys
from pathlib import Path
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import StorageError
from driftloop_trainer.disk import room

folder, written, needed = Path(sys.argv[1], "below"), int(sys.argv[2]), int(sys.argv[3])
folder.mkdir()
try:
    with room(folder, needed, "the training rows"):
        try:
            (folder / "rows").write_bytes(bytes(written))
        except OSError as error:  # as the clients of storage do
            raise StorageError("s3://bucket/prepared: no space") from error
except StageFailure as failure:
    print(failure.reason, failure.exit_code, failure.message)
"""


def in_a_small_folder(folder: Path, written: int, needed: int) -> str:
    script = f'mount -t tmpfs -o size=1m none {folder} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", SMALL, str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    ended = subprocess.run(
        [*command, str(written), str(needed)], env=environment, capture_output=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace of its own needs root")
@pytest.mark.parametrize(
    ("written", "needed"), [(0, 5 << 30), (2 << 20, 1 << 19)], ids=["known before", "another writer took it"]
)
def test_a_full_disk_is_a_failure_that_names_volume_and_fix(tmp_path: Path, written: int, needed: int) -> None:
    told = in_a_small_folder(tmp_path, written, needed)
    assert told.startswith("DiskFull 75 the training rows need ")
    assert f"need {needed / 2**30:.2f} GiB" in told
    assert f"0.00 GiB are free in {tmp_path} of " in told
    assert "the pod's volume `disk`): set ephemeral-storage in compute.resources.requests" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace of its own needs root")
def test_what_fits_is_written(tmp_path: Path) -> None:
    assert in_a_small_folder(tmp_path, 1 << 19, 1 << 19) == ""


def test_what_is_more_than_the_pod_may_write_is_told_before_the_kubelet_evicts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLOOP_DISK_LIMIT", "1048576")
    with pytest.raises(StageFailure, match="raise ephemeral-storage in compute"), room(tmp_path, 2 << 20, "the rows"):
        pass
    with room(tmp_path, 1 << 20, "the rows"):
        pass


def test_other_errors_of_the_block_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such bucket"), room(tmp_path, 0, "rows"):
        raise StorageError("no such bucket") from FileNotFoundError()


def test_a_pod_without_the_volume_uses_its_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLOOP_DISK", str(tmp_path))
    assert disk() == tmp_path
    monkeypatch.setenv("DRIFTLOOP_DISK", str(tmp_path / "missing"))
    assert disk() == Path(tempfile.gettempdir())
