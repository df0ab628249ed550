"""Our branch of the machine's cgroups, which also shows which processes belong to the cluster.

Each process is put into the branch before it runs its program, and the kernel keeps its descendants there: daemons,
containerd's shims, containers. So no file is needed to find them, which a killed run may not have written, and no
process id, which may have been reused.
"""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from testcluster.console import Error
from testcluster.paths import NAME

BRANCH = NAME
V2_CONTROLLERS = "+cpuset +cpu +io +memory +hugetlb +pids"
# Pods have priority over other processes such as tests, as probes and `ray start` time out after seconds.
PRIORITY = {"cpu.shares": "4096", "cpu.weight": "400"}  # four times the default, in v1 and v2


def mounted(mounts: str | None = None) -> dict[str, list[Path]]:
    """Where cgroups are mounted, by version: `cgroup` and `cgroup2` (`mounts`: the text of /proc/mounts)."""
    lines = (Path("/proc/mounts").read_text() if mounts is None else mounts).splitlines()
    folders: dict[str, list[Path]] = {"cgroup": [], "cgroup2": []}
    for _, folder, kind, *_ in map(str.split, lines):
        if kind in folders:
            folders[kind].append(Path(folder))
    return folders


def hierarchies(mounts: str | None = None) -> list[Path]:
    """The folders in which to make a group: one for cgroup v2, one per controller for v1."""
    folders = mounted(mounts)
    # If both are mounted (v1, with v2 in a "unified" folder), the controllers are in v1.
    roots = folders["cgroup"] or folders["cgroup2"]
    if not roots:
        raise Error("no cgroups are mounted on this machine, but nodes need them (is this an unprivileged container?)")
    return sorted(set(roots))


def service_group(name: str) -> Path:
    """The group for the daemon `name` in the hierarchy that tracks processes. Created if it doesn't exist."""
    group = _tracking() / BRANCH / "services" / name
    group.mkdir(parents=True, exist_ok=True)
    return group


def make_node_group(node: str) -> str:
    """Create the group for the pods of `node` in every hierarchy. Returns its path, as the kubelet expects it."""
    for root in hierarchies():
        group = root / BRANCH / node
        group.mkdir(parents=True, exist_ok=True)
        if (root / "cgroup.controllers").exists():
            available = (root / "cgroup.controllers").read_text().split()
            controllers = " ".join(name for name in V2_CONTROLLERS.split() if name[1:] in available)
            for parent in (root, root / BRANCH):
                (parent / "cgroup.subtree_control").write_text(controllers)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # In v1 a new cpuset is empty, and can't have processes until it has a CPU and a memory node.
            if (root / setting).exists():
                for child in (root / BRANCH, group):
                    (child / setting).write_text((root / setting).read_text())
        for setting, value in PRIORITY.items():
            if (root / BRANCH / setting).exists():
                (root / BRANCH / setting).write_text(value)
    return f"/{BRANCH}/{node}"


def node_group(node: str) -> Path:
    """The group with all processes of the node's pods."""
    return _tracking() / BRANCH / node


def processes(below: Path | None = None) -> list[int]:
    """The ids of all our processes, or of those in one group and its children."""
    top = below or _tracking() / BRANCH
    pids: list[int] = []
    for folder, _, files in os.walk(top):
        if "cgroup.procs" in files:
            try:
                pids += [int(line) for line in (Path(folder) / "cgroup.procs").read_text().split()]
            except OSError:  # the group has just been removed
                continue
    return pids


def kill_everything(seconds: float = 30) -> None:
    """Kill all our processes, also those that they start meanwhile. Raises Error if any survive for `seconds`."""
    end = time.monotonic() + seconds
    while left := processes():
        if time.monotonic() > end:
            raise Error(f"processes still running after SIGKILL: {_names(left)}")
        send(left, signal.SIGKILL)
        time.sleep(0.05)


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to all of `pids` that still exist."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def remove_branch() -> None:
    """Remove all our groups. Their processes must have ended."""
    folders = mounted()
    for root in {*folders["cgroup"], *folders["cgroup2"]}:  # runc also creates groups in an unused v2 hierarchy
        for folder, _, _ in os.walk(root / BRANCH, topdown=False):
            _rmdir(Path(folder))


def _rmdir(group: Path, attempts: int = 50) -> None:
    for left in reversed(range(attempts)):
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:  # the kernel is still cleaning up a killed process
            if not left:
                raise
            time.sleep(0.1)


def _tracking() -> Path:
    """The hierarchy to find processes in: one with a controller, as containers may not be in a named hierarchy."""
    roots = hierarchies()
    return next((root for root in roots if root.name == "pids"), roots[0])


def _names(pids: Iterable[int]) -> str:
    texts = []
    for pid in pids:
        try:
            texts.append(f"{pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})")
        except OSError:
            continue
    return ", ".join(texts)
