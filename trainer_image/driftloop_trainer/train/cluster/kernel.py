"""Ends this pod after the kernel has killed one of its processes for lack of memory.

Where the kernel kills only that process (cgroup v1, or the kubelet's `singleProcessOOMKill`), the container goes on,
and no status says `OOMKilled`. Ray would start the worker again at the same size, until no retry is left. But the pod's
cgroup counts such kills.
"""

import logging
import os
import threading
import time
from pathlib import Path

from driftloop.contract.phase import told
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure, report

log = logging.getLogger(__name__)

_CGROUP = Path("/sys/fs/cgroup")
_COUNTS = ("memory.events", "memory/memory.oom_control")  # of cgroup v2, and of v1
_POLL = 0.5  # seconds: less than Ray needs to notice a lost process and to start it again


def end_after_kernel_kill(root: Path = _CGROUP) -> None:
    """Watch the pod's cgroup, in a thread. Where it counts no kills, nothing is watched."""
    before = kernel_kills(root)
    if before is None:
        log.warning("the cgroup tells no kills by the kernel, so a lack of memory may look like a crash")
        return
    threading.Thread(target=_watch, args=[root, before], daemon=True).start()


def kernel_kills(root: Path) -> int | None:
    """How many processes of this pod the kernel has killed for lack of memory; None if the cgroup doesn't tell."""
    for name in _COUNTS:
        try:
            lines = (root / name).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition(" ")
            if key == "oom_kill" and value.isdecimal():
                return int(value)
    return None


def _watch(root: Path, before: int) -> None:
    while (kernel_kills(root) or 0) <= before:
        time.sleep(_POLL)
    message = "the kernel ended a process of this pod, as the pod had reached its memory limit"
    os._exit(report(StageFailure(StageReason.OUT_OF_MEMORY, message, phase=told())))
