import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftloop_trainer.train.shutdown import FOLDER_ENV

PROCESS_1 = """
import threading
from driftloop_trainer.train.shutdown import stop_on_sigterm
stop_on_sigterm({grace})
print("ready", flush=True)
threading.Event().wait()
"""
WORKER = """
import os, sys, time
from pathlib import Path
from driftloop_trainer.train.shutdown import FOLDER_ENV, at_work
with at_work(Path(os.environ[FOLDER_ENV])) as worker:
    print("ready", flush=True)
    while not worker.must_stop():
        time.sleep(0.01)
    print("stopping", flush=True)
    sys.stdin.readline()  # it writes its checkpoint
    worker.release()
    assert not worker.must_stop()
    sys.stdin.readline()  # it trains on
"""


class Pod:
    """Process 1 and workers, which share a folder."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join(p for p in sys.path if p)
        self._environment = os.environ | {FOLDER_ENV: str(folder), "PYTHONPATH": path}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, program: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=self._environment)
        self.started.append(process)
        assert line(process) == "ready"
        return process


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    pod = Pod(tmp_path)
    yield pod
    for process in pod.started:
        process.kill()
        process.communicate()


def test_a_pod_ends_as_retryable_once_all_its_workers_have_written_a_checkpoint(pod: Pod) -> None:
    process_1, workers = pod.start(PROCESS_1.format(grace=60)), [pod.start(WORKER), pod.start(WORKER)]
    process_1.send_signal(signal.SIGTERM)
    assert [line(worker) for worker in workers] == ["stopping", "stopping"]
    let_go(workers[0])
    with pytest.raises(subprocess.TimeoutExpired):
        process_1.wait(0.5)
    let_go(workers[1])
    assert process_1.wait(10) == 75


def test_a_pod_ends_at_once_if_no_worker_trains(pod: Pod) -> None:
    worker, process_1 = pod.start(WORKER), pod.start(PROCESS_1.format(grace=60))
    worker.kill()
    worker.wait()
    process_1.send_signal(signal.SIGTERM)
    assert process_1.wait(10) == 143


def test_a_pod_does_not_wait_beyond_its_grace_period(pod: Pod) -> None:
    process_1, worker = pod.start(PROCESS_1.format(grace=4)), pod.start(WORKER)
    process_1.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert line(worker) == "stopping"
    assert process_1.wait(10) == 75
    assert time.monotonic() - began < 4


def test_a_pod_does_not_wait_for_a_worker_that_dies(pod: Pod) -> None:
    process_1, worker = pod.start(PROCESS_1.format(grace=60)), pod.start(WORKER)
    process_1.send_signal(signal.SIGTERM)
    assert line(worker) == "stopping"
    worker.kill()
    worker.wait()
    assert process_1.wait(10) == 75
