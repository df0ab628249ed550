import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from driftloop.contract.names import EXIT_BAD_INPUT, TERMINATION_ENV
from driftloop_trainer.train.cluster.kernel import kernel_kills

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
V2 = "low 0\nhigh 0\nmax 7\noom 3\noom_kill {}\noom_group_kill 0\n"
EVENTS, CONTROL = "memory.events", "memory/memory.oom_control"

# Process 1 of a pod: it watches, and works on until it is ended.
POD = """
import sys, time
from pathlib import Path
from driftloop_trainer.train.cluster.kernel import end_after_kernel_kill
end_after_kernel_kill(Path(sys.argv[1]))
print("watching", flush=True)
time.sleep(60)
"""


def write(root: Path, name: str, content: str) -> None:
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({EVENTS: V2.format(2)}, 2),
        ({CONTROL: V1.format(1)}, 1),
        ({CONTROL: "oom_kill_disable 0\nunder_oom 0\n"}, None),  # Linux before 4.13
        ({}, None),
    ],
)
def test_kills_by_the_kernel_are_read_from_both_versions_of_cgroups(
    tmp_path: Path, files: dict[str, str], kills: int | None
) -> None:
    for name, content in files.items():
        write(tmp_path, name, content)

    assert kernel_kills(tmp_path) == kills


@pytest.mark.parametrize(("name", "content", "phase"), [(EVENTS, V2, "loading"), (CONTROL, V1, None)])
def test_a_pod_ends_as_out_of_memory_after_the_kernel_has_killed_one_of_its_processes(
    tmp_path: Path, name: str, content: str, phase: str | None
) -> None:
    """Under cgroup v1 the rest of the pod lived on, and Ray started the worker again at the same size."""
    write(tmp_path, name, content.format(4))  # kills of an earlier container count for nothing
    log = tmp_path / "termination"
    log.write_text(json.dumps({"kind": "Phase", "phase": phase}) if phase else "")
    pod = subprocess.Popen(
        [sys.executable, "-c", POD, str(tmp_path)], env={TERMINATION_ENV: str(log)}, stdout=subprocess.PIPE
    )
    try:
        assert pod.stdout is not None
        assert pod.stdout.readline() == b"watching\n"
        time.sleep(1)
        assert pod.poll() is None
        write(tmp_path, name, content.format(5))

        assert pod.wait(20) == EXIT_BAD_INPUT
        told = json.loads(log.read_text())
        assert told["reason"] == "OutOfMemory"
        assert "the kernel ended a process of this pod" in told["message"]
        assert told.get("phase") == phase
    finally:
        pod.kill()
        pod.wait()
