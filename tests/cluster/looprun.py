"""One run of the whole loop in its short form, with the controls: what `make demo CONTROLS=1` runs, beside the tests.

Meanwhile the operator is killed once at every stage, and none of the promises may be the weaker for it.
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
    """Kills the operator when it first sees a stage."""

    kube: Kube
    seen: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.wait(2):
            fresh = [stage for stage in self._stages() if stage in STAGES and stage not in self.seen]
            if fresh and self._killed():
                self.seen.append(fresh[0])

    def _stages(self) -> Iterator[str]:
        for kind in ("finetunejobs", "modelversions", "inferenceservices"):
            for found in self._list(kind):
                status = found.get("status", {})
                yield status.get("phase", "")
                yield (status.get("retraining") or {}).get("state", "")

    def _list(self, kind: str) -> list[Obj]:
        try:
            return self.kube.list(kind, NAMESPACE)
        except ReadError:  # before the CRDs are installed
            return []

    def _killed(self) -> bool:
        try:
            kill_operator(self.kube)
        except (KubectlError, ReadError):  # tried again at the next look
            return False
        return True


@dataclass(frozen=True)
class Ended:
    """What is left of a run."""

    report: dict[str, Any]
    kube: Kube
    killed_at: list[str]


@dataclass
class LoopRun:
    """A run that was begun, in `folder`."""

    folder: Path
    process: subprocess.Popen[bytes]
    killer: Killer

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def end(self) -> Ended:
        """Wait for its end. What it printed becomes the test's output."""
        try:
            code = self.process.wait(_LIMIT)
        finally:
            self.killer.stop.set()
            print(_output(self.folder).read_text().replace("\r", "\n"))
        assert code == 0, "the demo failed: its output is above"
        return Ended(json.loads(_report(self.folder).read_text()), self.killer.kube, self.killer.seen)


@contextmanager
def begun(folder: Path) -> Iterator[LoopRun]:
    """A run in the background, which ends with this context at the latest."""
    command = [*(sys.executable, "-m", "demo", "--short", "--controls", "--namespace", NAMESPACE)]
    command += ["--report", str(_report(folder))]
    environment = os.environ | {"PYTHONPATH": "examples:tests:operator"}
    killer = Killer(Kube(binary("kubectl"), KUBECONFIG))
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
