"""This pod's Ray node: the head at index 0, the others joined to it.

Nothing here stops Ray, because the pod ends with process 1. `ray stop` finds processes by name, and it ended the driver
before the driver had reported its result: https://github.com/ray-project/ray/issues/11513
"""

import os
import socket
import subprocess
import sys
import threading
import time

from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.logs import relay
from driftloop_trainer.train.cluster.cpus import pod_cpus

PORT = 6379
_OBJECT_STORE_BYTES = 100 * 1024 * 1024  # no large object goes through it, and /dev/shm is memory of the pod
_START_TIMEOUT = 120  # seconds
_SETTINGS = {
    # A lost head was noticed after 95 s with Ray's defaults, and after 41 s with these (measured on two nodes).
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS_ALLOW_REGEX": r"^  File |Thread 0x",  # stacks of all ranks (worker/watchdog.py), not only the first
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # with it each line of a worker is logged twice (not reported)
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an extra process, which only sees drains of Ray, not of Kubernetes
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that spin while they wait take the core from the threads that they wait for. Training was then slower: 90
    # tokens/s instead of 3,500. https://github.com/pytorch/pytorch/issues/80777
    "OMP_WAIT_POLICY": "PASSIVE",
}


def configure(workers: int) -> None:
    """Set the environment of Ray and its `workers`. Variables that the pod sets are kept."""
    threads = {"OMP_NUM_THREADS": str(max(1, pod_cpus() // workers))}
    for name, value in (_SETTINGS | threads).items():
        os.environ.setdefault(name, value)


def own_address() -> str:
    """The IP address of this pod. The kubelet writes it to /etc/hosts, with the host name."""
    return socket.gethostbyname(socket.gethostname())


def start_head(cpus: int, gpus: int) -> subprocess.Popen[bytes]:
    """Begin to start Ray's head. Its processes keep running after the command has ended. See `await_head`."""
    command = [*_command(cpus, gpus), "--head", f"--port={PORT}", "--include-dashboard=false", "--no-monitor"]
    return _start(command)


def await_head(head: subprocess.Popen[bytes]) -> str:
    """Wait until the head of `start_head` runs, and return its address. Raises RayFailed."""
    try:
        code = head.wait(_START_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise StageFailure(StageReason.RAY_FAILED, str(error), EXIT_RETRY) from error
    if code != 0:
        raise StageFailure(
            StageReason.RAY_FAILED, f"`ray start --head` ended with exit code {code}; see the log", EXIT_RETRY
        )
    return f"{own_address()}:{PORT}"


def join(head: str, cpus: int, gpus: int) -> int:
    """Be a node of `head` until Ray ends on this node. Returns the exit code of Ray."""
    command = [*_command(cpus, gpus), f"--address={head}:{PORT}", "--block"]
    return _start(command).wait()


def wait_for_head(host: str, deadline: float) -> None:
    """Wait until `host` listens on Ray's port, at most until `deadline` on the monotonic clock. Raises NodesMissing."""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, PORT), timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise StageFailure(StageReason.NODES_MISSING, f"the head {host}:{PORT} did not answer in time", EXIT_RETRY)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a command of Ray, and log its output."""
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603 - a fixed command
    assert started.stdout is not None
    threading.Thread(target=relay, args=[started.stdout], daemon=True).start()
    return started


def _command(cpus: int, gpus: int) -> list[str]:
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats"),
        *("--log-style=pretty", "--log-color=false"),  # the log has times and levels, and shows no colours
        *(f"--node-ip-address={own_address()}", f"--object-store-memory={_OBJECT_STORE_BYTES}"),
        *(f"--num-cpus={cpus}", f"--num-gpus={gpus}"),
    ]
