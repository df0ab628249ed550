"""Our branch of the machine's cgroups, which is also the record of which processes are ours.

Every process that the tool starts is put into the branch before it runs its program, and the kernel keeps all its
descendants there: daemons, containerd's shims, containers. So "ours" never rests on a file that a killed run didn't
write, nor on a process id that now means something else.
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
# Pods before what else runs on the machine, such as other tests: probes and `ray start` give up after seconds.
PRIORITY = {"cpu.shares": "4096", "cpu.weight": "400"}  # four times the default, in v1 and in v2


def mounted(mounts: str | None = None) -> dict[str, list[Path]]:
    """Where cgroups are mounted, by version: `cgroup` and `cgroup2` (`mounts`: the text of /proc/mounts)."""
    lines = (Path("/proc/mounts").read_text() if mounts is None else mounts).splitlines()
    found: dict[str, list[Path]] = {"cgroup": [], "cgroup2": []}
    for _, folder, kind, *_ in map(str.split, lines):
        if kind in found:
            found[kind].append(Path(folder))
    return found


def hierarchies(mounts: str | None = None) -> list[Path]:
    """The folders in which to make a group: one with cgroup v2, one a controller with v1."""
    found = mounted(mounts)
    # Where both are mounted (v1 with a v2 "unified" folder beside it), the controllers sit in v1.
    chosen = found["cgroup"] or found["cgroup2"]
    if not chosen:
        raise Error("no cgroups are mounted on this machine; nodes need them (a container may have to be privileged)")
    return sorted(set(chosen))


def service_group(name: str) -> Path:
    """The group for the daemon `name`, made if need be, in the one hierarchy that tracks processes."""
    group = _tracking() / BRANCH / "services" / name
    group.mkdir(parents=True, exist_ok=True)
    return group


def make_node_group(node: str) -> str:
    """Make the group below which the kubelet of `node` puts its pods, in every hierarchy; returns it as `/path`."""
    for root in hierarchies():
        group = root / BRANCH / node
        group.mkdir(parents=True, exist_ok=True)
        if (root / "cgroup.controllers").exists():
            have = (root / "cgroup.controllers").read_text().split()
            wanted = " ".join(each for each in V2_CONTROLLERS.split() if each[1:] in have)
            for parent in (root, root / BRANCH):
                (parent / "cgroup.subtree_control").write_text(wanted)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # In v1 a new cpuset is empty, and no process can be put into it before it has a CPU and memory.
            if (root / setting).exists():
                for child in (root / BRANCH, group):
                    (child / setting).write_text((root / setting).read_text())
        for setting, value in PRIORITY.items():
            if (root / BRANCH / setting).exists():
                (root / BRANCH / setting).write_text(value)
    return f"/{BRANCH}/{node}"


def node_group(node: str) -> Path:
    """The group that holds every process of the node's pods."""
    return _tracking() / BRANCH / node


def processes(below: Path | None = None) -> list[int]:
    """The ids of our processes, all or those of one group and its children."""
    top = below or _tracking() / BRANCH
    found: list[int] = []
    for folder, _, files in os.walk(top):
        if "cgroup.procs" in files:
            try:
                found += [int(line) for line in (Path(folder) / "cgroup.procs").read_text().split()]
            except OSError:  # the group went away meanwhile
                continue
    return found


def kill_everything(seconds: float = 30) -> None:
    """End all our processes, including those they start meanwhile; Error when some survive for `seconds`."""
    end = time.monotonic() + seconds
    while left := processes():
        if time.monotonic() > end:
            raise Error(f"processes do not end: {_names(left)}")
        send(left, signal.SIGKILL)
        time.sleep(0.05)


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those of `pids` that still live."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def remove_branch() -> None:
    """Remove all our groups; every process in them must have ended."""
    found = mounted()
    for root in {*found["cgroup"], *found["cgroup2"]}:  # runc makes groups in an idle v2 hierarchy too
        for folder, _, _ in os.walk(root / BRANCH, topdown=False):
            _rmdir(Path(folder))


def _rmdir(group: Path, attempts: int = 50) -> None:
    for left in reversed(range(attempts)):
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:  # a process that was just killed is still being taken apart by the kernel
            if not left:
                raise
            time.sleep(0.1)


def _tracking() -> Path:
    found = hierarchies()
    # Any hierarchy would do, but containers are in all the controllers' and only perhaps in a named one.
    return next((each for each in found if each.name == "pids"), found[0])


def _names(pids: Iterable[int]) -> str:
    texts = []
    for pid in pids:
        try:
            texts.append(f"{pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})")
        except OSError:
            continue
    return ", ".join(texts)
