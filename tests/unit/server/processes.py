"""The pod's containers as processes of this machine."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from driftloop.contract.task import DoorTask, ServeTask, encode

TOKEN = "the-feedback-token-of-desk"
SIGNING_KEY = "the-signing-key-of-desk"
KEYS = {"DRIFTLOOP_SIGNING_KEY": SIGNING_KEY, "DRIFTLOOP_FEEDBACK_TOKEN": TOKEN}


@dataclass
class Artefact:
    """A published model: `uri` is below the folder `volumes`."""

    volumes: Path
    uri: str
    digest: str

    @property
    def folder(self) -> Path:
        return self.volumes / self.uri.removeprefix("pvc://")


@dataclass
class Process:
    """A process of ours, with its output in a file."""

    popen: subprocess.Popen[bytes]
    output: Path
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['api']}"

    def metrics(self) -> dict[str, float]:
        """Every sample of the metrics port by name and labels, as they are written."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def metric(self, name: str, **labels: str) -> float:
        """The one sample of `name` that carries `labels`."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        (found,) = (
            value
            for series, value in self.metrics().items()
            if series.split("{")[0] == name and all(label in series for label in wanted)
        )
        return found

    def terminate(self) -> None:
        self.popen.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        self.popen.kill()
        self.popen.wait()


# Starts a process: a proxy, or the module that is named.
Start = Callable[..., Process]


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    """Ends a hang and measures nothing: beside the cluster's pods an engine took more than 60 s to import torch."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def start(module: str, task: ServeTask | DoorTask, output: Path, *args: str, **environment: str) -> Process:
    """Run one of the pod's containers as a process."""
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "DRIFTLOOP_TASK": encode(task),
        "DRIFTLOOP_TERMINATION_LOG": str(output.with_suffix(".termination")),
    } | environment
    with output.open("wb") as stream:
        popen = subprocess.Popen(
            [sys.executable, "-m", f"driftloop_server.{module}", *args], env=variables, stdout=stream, stderr=stream
        )
    ports = {name: getattr(task, f"{name}_port", 0) for name in ("engine", "api", "feedback", "metrics")}
    return Process(popen, output, ports)
