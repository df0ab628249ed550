"""This pod's Ray node: the head at index 0, the others joined to it.

Nothing here stops Ray: the end of process 1 is the end of its pod. `ray stop` looks for processes by name, and ended
the driver before it had told its result.
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
_OBJECT_STORE_BYTES = 100 * 1024 * 1024  # nothing of size goes through it, and /dev/shm is the pod's memory
_START_TIMEOUT = 120  # seconds
_SETTINGS = {
    # A lost head was noticed after 95 s with Ray's defaults, after 41 s with these (measured on two nodes).
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # with it every line of a worker shows up twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one more process; Kubernetes ends pods, it doesn't drain Ray
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that spin while they wait take the core from those they wait for: 90 tokens/s instead of 3,500 were seen.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def configure(workers: int) -> None:
    """Set what Ray and its `workers` read, where the pod doesn't set it."""
    threads = {"OMP_NUM_THREADS": str(max(1, pod_cpus() // workers))}
    for name, value in (_SETTINGS | threads).items():
        os.environ.setdefault(name, value)


def own_address() -> str:
    """The IP address of this pod: kubelet writes it beside the host's name."""
    return socket.gethostbyname(socket.gethostname())


def start_head(cpus: int, gpus: int) -> subprocess.Popen[bytes]:
    """Begin to start Ray's head, whose processes outlive the command that starts them. See `await_head`."""
    command = [*_command(cpus, gpus), "--head", f"--port={PORT}", "--include-dashboard=false", "--no-monitor"]
    return _start(command)


def await_head(head: subprocess.Popen[bytes]) -> str:
    """Wait until the head that was begun runs; its address. Raises RayFailed."""
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
    """Be a node of `head` until Ray ends here; returns its exit code."""
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
    """Start a command of Ray's whose output is logged."""
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S603 - it is ours
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
