"""How many CPUs this pod may use: its cgroup's limit, which Python does not look at."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def pod_cpus(root: Path = _CGROUP) -> int:
    """CPUs of the limit, at least 1; those of the machine that may be used where there is no limit."""
    machine = len(os.sched_getaffinity(0))
    quota = _v2(root) or _v1(root)
    return machine if quota is None else max(1, min(machine, int(quota)))


def _v2(root: Path) -> float | None:
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _v1(root: Path) -> float | None:
    try:
        quota = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period = int((root / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota <= 0 else quota / period
