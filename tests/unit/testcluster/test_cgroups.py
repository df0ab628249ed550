"""Where the cgroups of a machine are."""

from pathlib import Path

import pytest

from testcluster import cgroups
from testcluster.console import Error


def test_with_version_two_there_is_one_hierarchy() -> None:
    mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"
    assert cgroups.hierarchies(mounts) == [Path("/sys/fs/cgroup")]


def test_version_one_is_used_where_an_idle_version_two_is_mounted_beside_it() -> None:
    mounts = (
        "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n"
        "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    )
    assert cgroups.hierarchies(mounts) == [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/pids")]


def test_a_machine_without_cgroups_is_told_so() -> None:
    with pytest.raises(Error, match="no cgroups"):
        cgroups.hierarchies("proc /proc proc rw 0 0\n")
