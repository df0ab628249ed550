"""When a process started, as Linux counts it."""

import os
import time
from pathlib import Path

_START = 19  # of the fields after the name, which may have spaces itself: proc_pid_stat(5) has it as number 22


def process_start() -> float:
    """When this process started, in Unix seconds. In a pod's main process: when its container started."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    after_boot = int(fields[_START]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + after_boot
