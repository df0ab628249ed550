"""The workers of a pod open one copy of the prepared data, and a pod that can't make it ends all workers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unit.trainer import data_run
from unit.trainer.ranks import environment
from unit.trainer.train.test_localdata import IDS, prepared

RANKS = range(4)


def opened(folder: Path, case: str) -> tuple[int, dict[int, dict[str, Any]]]:
    """The exit code of a case, and what its ranks told."""
    digest = prepared(folder / "prepared")
    (folder / "data.json").write_text(json.dumps({"uri": f"file://{folder}/prepared", "digest": digest}))
    for pod in (0, 1):
        (folder / f"disk-{pod}").mkdir()
    command = ["unshare", "--mount"] if case == "full" else []
    ended = subprocess.run(
        [*command, sys.executable, data_run.__file__, folder, case],
        env=environment(folder),
        capture_output=True,
        check=False,
        timeout=300,
    )
    told = {rank: folder / f"{rank}.json" for rank in RANKS}
    return ended.returncode, {rank: json.loads(path.read_text()) for rank, path in told.items() if path.exists()}


def test_each_pod_copies_once_and_all_its_workers_open_the_copy(tmp_path: Path) -> None:
    code, told = opened(tmp_path, "good")
    assert code == 0
    assert [told[rank]["made"] for rank in RANKS] == [1, 0, 1, 0]
    assert [Path(told[rank]["place"]).parents[1].name for rank in RANKS] == ["disk-0", "disk-0", "disk-1", "disk-1"]
    assert told[0]["place"] == told[1]["place"]
    assert all(told[rank]["ids"] == IDS[0] for rank in RANKS)


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace of its own needs root")
def test_a_pod_whose_disk_is_full_is_the_failure_of_all_workers(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    code, told = opened(tmp_path, "full")
    assert code == 0
    reason, message, exit_code = told[0]["failure"]
    assert (reason, exit_code) == ("DiskFull", 75)
    assert f"are free in {tmp_path}/disk-1" in message
    assert all(told[rank]["failure"] == told[0]["failure"] for rank in RANKS)


def test_workers_do_not_wait_for_one_that_dies_while_it_copies(tmp_path: Path) -> None:
    code, told = opened(tmp_path, "lost")
    assert code != 0
    assert sorted(told) == [0, 1, 3]
    assert all("lost" in found and found["seconds"] < 120 for found in told.values())
