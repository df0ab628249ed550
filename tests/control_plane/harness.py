"""A namespace on a real API server, and operators as separate processes.

There is no controller manager and no kubelet: tests play their part by writing statuses.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from demo.reads import Reads
from testcluster.controlplane import ControlPlane, free_port

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-for-tests"
T = TypeVar("T")


def eventually(check: Callable[[], T], seconds: float = 120, every: float = 0.25) -> T:
    """Repeat `check` until its result is true, and return the result. After `seconds` fails with the last result.

    The default is ten times the usual duration, as two files of tests run at a time on two cores.
    """
    deadline = time.monotonic() + seconds
    while True:
        last: object
        try:
            if found := check():
                return found
            last = found
        except Exception as error:  # the server or object may not exist yet
            last = error
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s; last: {last!r}")
        time.sleep(every)


class Cluster:
    """One namespace of the control plane. Objects are JSON."""

    def __init__(self, plane: ControlPlane, namespace: str, reads: Reads) -> None:
        self.plane = plane
        self._reads = reads
        self.namespace = namespace

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in the namespace and return its output."""
        return self.plane.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def get(self, kind: str, name: str) -> Any:
        """An object; None if it doesn't exist."""
        return self._reads.get(kind, name, self.namespace)

    def list(self, kind: str) -> Any:
        """All objects of a kind."""
        return self._reads.list(kind, self.namespace)

    def create(self, *objects: Any) -> None:
        """Create objects with one call of kubectl."""
        self.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def patch_status(self, kind: str, name: str, status: Any) -> None:
        """Merge into an object's status, like its controller."""
        patch = json.dumps({"status": status})
        self.kubectl("patch", kind, name, "--subresource=status", "--type=merge", "-p", patch)

    def condition(self, kind: str, name: str, type_: str) -> Any:
        """A condition of an object; None if it doesn't have it."""
        found = (self.get(kind, name) or {}).get("status") or {}
        return next((each for each in found.get("conditions") or [] if each["type"] == type_), None)

    def revisions(self) -> dict[str, str]:
        """The resourceVersion of each object that an operator may write, without Leases. It changes with each write."""
        kinds = "ftj,mver,dlsvc,jobs,pods,deployments,services,networkpolicies,secrets,configmaps,events"
        items = json.loads(self.kubectl("get", kinds, "-o", "json"))["items"]
        return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["resourceVersion"] for each in items}


class OperatorProcess:
    """An operator for one namespace, in a separate process."""

    def __init__(self, cluster: Cluster, folder: Path, identity: str, script: Path | None, *flags: str) -> None:
        self.health, self.webhook = free_port(), free_port()
        self.log = folder / f"{identity}.log"
        self.identity = identity
        token = folder / "token"
        token.write_text(TOKEN)
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}/operator",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(folder),  # a killed operator leaves its client's key here
        }
        run = [str(script)] if script else ["-m", "driftloop.cli.main", "operator"]
        self._command = [
            *(sys.executable, *run),
            f"--kubeconfig={cluster.plane.kubeconfig}",
            f"--namespaces={cluster.namespace}",
            *("--trainer-image=trainer:test", "--server-image=server:test"),
            *("--listen-host=127.0.0.1", f"--health-port={self.health}", f"--webhook-port={self.webhook}"),
            f"--webhook-token-file={token}",
            *(f"--lease-namespace={cluster.namespace}", f"--identity={identity}"),
            *("--lease-seconds=6", "--renew-deadline-seconds=5", "--retry-seconds=0.5"),
            *flags,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def add(self, *flags: str) -> "OperatorProcess":
        """Add flags to the command line."""
        self._command += flags
        return self

    def start(self, **environment: str) -> "OperatorProcess":
        """Start it, without waiting until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment | environment, stdout=log, stderr=log, cwd=ROOT
            )
        return self

    def ready(self) -> "OperatorProcess":
        """Wait until the operator is ready: its caches are filled."""
        eventually(lambda: self.probe("/readyz")[0] == 200)
        return self

    def stop(self, kill: bool = False) -> int:
        """Terminate or kill it. Returns the exit status."""
        assert self.process is not None
        self.process.kill() if kill else self.process.terminate()
        return self.process.wait(timeout=30)

    def running(self) -> bool:
        """Whether the process is running."""
        return self.process is not None and self.process.poll() is None

    def probe(self, path: str) -> tuple[int, str]:
        """Send a GET request to its health listener. Returns status and text."""
        return http("GET", f"http://127.0.0.1:{self.health}{path}")

    def metric(self, name: str) -> float:
        """The sum of all series whose line starts with `name`, which may include labels."""
        lines = self.probe("/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def writes(self) -> float:
        """Number of write requests, without those of the leader election, which uses PUT."""
        return sum(
            self.metric(f'driftloop_api_requests_total{{code="{code}",verb="{verb}"}}')
            for verb in ("POST", "PATCH", "DELETE")
            for code in (200, 201, 409)
        )

    def post(self, body: bytes, token: str | None = TOKEN) -> tuple[int, str]:
        """Send a POST request to its webhook. Returns status and text."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return http("POST", f"http://127.0.0.1:{self.webhook}/alerts", body, headers)


def http(verb: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Send a request. Returns status and text, also for HTTP errors."""
    request = urllib.request.Request(url, data=body, headers=headers or {}, method=verb)
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


StartOperator = Callable[..., OperatorProcess]
