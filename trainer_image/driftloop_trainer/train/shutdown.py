"""A pod that has to stop while its workers train: the workers write a checkpoint first.

The kubelet sends SIGTERM only to process 1 of the pod, but the workers are processes that Ray starts. They share a
folder, whose path is in the environment:

    stop           process 1 received SIGTERM
    resize         the driver has more nodes: the workers end after their next checkpoint, and start on all of them
    worker-<pid>   this worker is training; it deletes the file when process 1 need not wait for it any more
"""

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from driftloop.contract.names import EXIT_RETRY

log = logging.getLogger(__name__)

FOLDER_ENV = "DRIFTLOOP_SHUTDOWN"
_STOP, _RESIZE, _WORKER = "stop", "resize", "worker-"
_MARGIN = 2  # seconds of the grace period that are left when process 1 stops waiting
_POLL = 0.05  # seconds


def stop_on_sigterm(grace_seconds: int) -> None:
    """For process 1: on SIGTERM let the pod's workers write a checkpoint, but exit before the grace period is over.

    If no worker trains, the exit is immediate. Processes that are started later inherit the shared folder.
    """
    folder = Path(os.environ.get(FOLDER_ENV) or tempfile.mkdtemp(prefix="shutdown-"))
    os.environ[FOLDER_ENV] = str(folder)

    def stop(*_: object) -> None:
        # In a thread, because a signal handler would hold up the main thread, which may just be ending the pod.
        threading.Thread(target=_stop, args=[folder, grace_seconds - _MARGIN], daemon=True).start()

    signal.signal(signal.SIGTERM, stop)


def _stop(folder: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    if not _training(folder):
        os._exit(128 + signal.SIGTERM)
    log.warning("SIGTERM: the workers write a checkpoint, then this pod ends")
    (folder / _STOP).touch()
    while _training(folder) and time.monotonic() < deadline:
        time.sleep(_POLL)
    if _training(folder):
        log.warning("no checkpoint within %.0f s: this pod ends without it", seconds)
    os._exit(EXIT_RETRY)


def _training(folder: Path) -> bool:
    """Whether any worker of this pod trains. A killed worker leaves its file behind."""
    return any(_lives(int(path.name.removeprefix(_WORKER))) for path in folder.glob(f"{_WORKER}*"))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that trains. Process 1 waits for it while `file` exists."""

    file: Path

    def must_stop(self) -> bool:
        """Whether process 1 waits for a checkpoint of this worker."""
        return self.file.with_name(_STOP).exists() and self.file.exists()

    def must_resize(self) -> bool:
        """Whether the driver, in this pod, wants to start all workers again on more nodes."""
        return self.file.with_name(_RESIZE).exists()

    def release(self) -> None:
        """Let process 1 no longer wait for this worker."""
        self.file.unlink(missing_ok=True)


@contextmanager
def at_work(folder: Path) -> Iterator[Worker]:
    """While the block runs, process 1 waits on SIGTERM until this worker is released."""
    worker = Worker(folder / f"{_WORKER}{os.getpid()}")
    worker.file.touch()
    try:
        yield worker
    finally:
        worker.release()


def ask_for_resize() -> None:
    """For the driver: let the workers end after their next checkpoint."""
    _resize_file().touch()


def forget_resize() -> None:
    """For the driver, before it starts workers."""
    _resize_file().unlink(missing_ok=True)


def _resize_file() -> Path:
    return Path(os.environ[FOLDER_ENV], _RESIZE)
