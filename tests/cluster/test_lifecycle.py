"""The local cluster starts whatever happened before, and is removed completely.

The tests use a second cluster on the machine (DRIFTLOOP_INSTANCE=1), next to the one that other tests use.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testcluster import cgroups, providers, wait
from testcluster.binaries import binary
from testcluster.paths import REPOSITORY

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        providers.choose(os.environ.get("CLUSTER") or "auto") is not providers.PROVIDERS["local"],
        reason="tests CLUSTER=local",
    ),
]

NAME = "driftloop-testcluster-1"
STATE = Path("/var/lib") / NAME


def tool(checkout: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start `testcluster COMMAND…` of `checkout` on the second cluster."""
    environment = {**os.environ, "DRIFTLOOP_INSTANCE": "1", "CLUSTER": "local", "PYTHONPATH": str(checkout / "tests")}
    return subprocess.Popen([sys.executable, "-m", "testcluster", *command], env=environment, start_new_session=True)


def succeed(checkout: Path, *command: str) -> None:
    assert tool(checkout, *command).wait(timeout=200) == 0


def kubectl(checkout: Path, *arguments: str) -> str:
    kubeconfig = checkout / "build" / "cluster-1" / "kubeconfig"
    command = [str(binary("kubectl")), f"--kubeconfig={kubeconfig}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout


def traces() -> list[str]:
    """Everything of the second cluster that is still on the machine."""
    left = [str(STATE)] if STATE.exists() else []
    left += [str(path) for path in Path("/run/netns").glob("driftloop-1-*")]
    left += [str(path) for path in Path("/sys/class/net").glob("driftloop*1") if path.name == "driftloop1"]
    left += [str(path) for path in Path("/sys/class/net").glob("driftloop-1-*")]
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{NAME}/" in line]
    mounted = cgroups.mounted()
    left += [str(root / NAME) for root in mounted["cgroup"] + mounted["cgroup2"] if (root / NAME).exists()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:  # the process has just ended
            continue
        if f"/{NAME}/" in command:
            left.append(command)
    return left


@pytest.fixture
def checkouts(tmp_path: Path) -> Iterator[list[Path]]:
    """Two copies of the tool, like two checkouts."""
    made = [tmp_path / "first", tmp_path / "second"]
    for checkout in made:
        shutil.copytree(REPOSITORY / "tests" / "testcluster", checkout / "tests" / "testcluster")
    yield made
    succeed(made[0], "down")


def test_a_killed_start_is_taken_over_by_another_checkout_and_removed_without_a_trace(checkouts: list[Path]) -> None:
    first, second = checkouts
    started = tool(first, "up")
    wait.until((STATE / "services" / "node-a-containerd.json").exists, "the start to be half done", 100)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert traces(), "the killed start left nothing behind, so this test shows nothing"

    succeed(second, "up")
    kubectl(second, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")

    succeed(first, "down")
    assert traces() == []


@pytest.mark.long("faults")
def test_pods_survive_the_crash_of_daemons_and_leave_nothing_when_the_cluster_goes(checkouts: list[Path]) -> None:
    checkout = checkouts[0]
    succeed(checkout, "up")
    labels = {"app": "idle"}
    containers = [{"name": "idle", "image": "localhost/driftloop-pause:1", "imagePullPolicy": "Never"}]
    daemons = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "idle"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    }
    manifest = checkout / "daemons.json"
    manifest.write_text(json.dumps(daemons))
    kubectl(checkout, "apply", "-f", str(manifest))
    kubectl(checkout, "wait", "daemonset/idle", "--for=jsonpath={.status.numberReady}=2", "--timeout=60s")
    running = "jsonpath={.items[*].status.containerStatuses[*].containerID}"
    before = kubectl(checkout, "get", "pods", "-o", running)

    for daemon in ("node-a-containerd", "node-b-kubelet", "etcd"):
        succeed(checkout, "stop", daemon)
    succeed(checkout, "up")
    kubectl(checkout, "wait", "daemonset/idle", "--for=jsonpath={.status.numberReady}=2", "--timeout=60s")
    assert kubectl(checkout, "get", "pods", "-o", running) == before

    succeed(checkout, "down")
    assert traces() == []


@pytest.mark.long("faults")
def test_a_lost_node_is_seen_and_returns(checkouts: list[Path]) -> None:
    checkout = checkouts[0]
    succeed(checkout, "up")
    ready = '--for=jsonpath={.status.conditions[?(@.type=="Ready")].status}='
    succeed(checkout, "fail-node", "node-b")
    kubectl(checkout, "wait", "node/node-b", f"{ready}Unknown", "--timeout=60s")
    succeed(checkout, "heal-node", "node-b")
    kubectl(checkout, "wait", "node/node-b", f"{ready}True", "--timeout=60s")
