"""One run of the whole loop in its short form, as in `make demo`, in the background.

Meanwhile the operator is killed once at every stage, and all promises must still hold.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.lab import kill_operator
from demo.kube import Kube, KubectlError
from demo.reads import Obj, ReadError
from testcluster.binaries import binary
from testcluster.paths import KUBECONFIG, REPOSITORY

NAMESPACE = "loop-test"
STAGES = ("Preparing", "Training", "Evaluating", "Deploying", "Waiting", "Canary")
_LIMIT = 2300  # seconds


@dataclass
class Killer:
    """Kills the operator when a stage is first seen."""

    kube: Kube
    namespace: str
    seen: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.wait(2):
            unseen = [stage for stage in self._stages() if stage in STAGES and stage not in self.seen]
            if unseen and self._killed():
                self.seen.append(unseen[0])

    def _stages(self) -> Iterator[str]:
        for kind in ("finetunejobs", "modelversions", "inferenceservices"):
            for obj in self._list(kind):
                status = obj.get("status", {})
                yield status.get("phase", "")
                yield (status.get("retraining") or {}).get("state", "")

    def _list(self, kind: str) -> list[Obj]:
        try:
            return self.kube.list(kind, self.namespace)
        except ReadError:  # before the CRDs are installed
            return []

    def _killed(self) -> bool:
        try:
            kill_operator(self.kube)
        except (KubectlError, ReadError):  # retried in the next round
            return False
        return True


@dataclass(frozen=True)
class Ended:
    """The results of a run."""

    report: dict[str, Any]
    kube: Kube
    killed_at: list[str]


@dataclass
class LoopRun:
    """A started run with its files in `folder`."""

    folder: Path
    process: subprocess.Popen[bytes]
    killer: Killer

    def running(self) -> bool:
        """Whether it is still running."""
        return self.process.poll() is None

    def end(self) -> Ended:
        """Wait for the end of the run, and print its output."""
        try:
            code = self.process.wait(_LIMIT)
        finally:
            self.killer.stop.set()
            print(_output(self.folder).read_text().replace("\r", "\n"))
        assert code == 0, "the demo failed: its output is above"
        return Ended(json.loads(_report(self.folder).read_text()), self.killer.kube, self.killer.seen)


@contextmanager
def begun(folder: Path, namespace: str, *options: str) -> Iterator[LoopRun]:
    """Start a run with the demo's `options` in the background. It is stopped at the end of this context."""
    command = [sys.executable, "-m", "demo", "--short", "--namespace", namespace, *options]
    command += ["--report", str(_report(folder))]
    environment = os.environ | {"PYTHONPATH": "examples:tests:operator"}
    killer = Killer(Kube(binary("kubectl"), KUBECONFIG), namespace)
    thread = threading.Thread(target=killer.run)
    with _output(folder).open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT)
    thread.start()
    try:
        yield LoopRun(folder, process, killer)
    finally:
        killer.stop.set()
        process.terminate()
        process.wait(60)
        thread.join(timeout=60)


def _report(folder: Path) -> Path:
    return folder / "report.json"


def _output(folder: Path) -> Path:
    return folder / "output.txt"
