"""The number of CPUs that this pod may use: the limit of its cgroup, which Python does not read."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def pod_cpus(root: Path = _CGROUP) -> int:
    """The limit in whole CPUs, at least 1. Without a limit: the CPUs of the machine that this process may use."""
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
