"""Runs the commands as a pipeline does: as processes, with a token of the Role in deploy/pipeline."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from control_plane.harness import ROOT, Cluster
from testcluster.binaries import binary

ROLE = ROOT / "deploy/pipeline/role.yaml"
APPROVER = ROLE.with_name("approver.yaml")
ROLLOUT = ROLE.with_name("rollout.yaml")
ACCOUNT = "driftloop-pipeline"


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Pipeline:
    """The commands with the rights of one account."""

    def __init__(self, cluster: Cluster, folder: Path, account: str = ACCOUNT) -> None:
        self.cluster, self.folder = cluster, folder
        self.kubeconfig = folder / f"{account}.kubeconfig"
        config = yaml.safe_load(cluster.plane.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": cluster.kubectl("create", "token", account).strip()}
        config["contexts"][0]["context"]["namespace"] = cluster.namespace
        self.kubeconfig.write_text(json.dumps(config))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a step of a pipeline."""
        return os.environ | {"PYTHONPATH": f"{ROOT}/operator", "KUBECONFIG": str(self.kubeconfig)}

    def environment_with_tools(self) -> dict[str, str]:
        """The same, with the package's programs on the PATH."""
        return self.environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def write(self, *objects: Any) -> str:
        """A file with these objects."""
        path = self.folder / "manifest.yaml"
        path.write_text(yaml.safe_dump_all(objects))
        return str(path)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command."""
        command = [sys.executable, "-m", "driftloop.cli.main", *arguments]
        return subprocess.Popen(
            command, env=self.environment, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *arguments: str) -> Ended:
        """Run a command until it ends."""
        return ended(self.start(*arguments))

    def kubectl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run kubectl with the package's plugin on its PATH."""
        return subprocess.run(
            [str(binary("kubectl")), *arguments],
            env=self.environment_with_tools(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def ended(process: "subprocess.Popen[str]", seconds: float = 120) -> Ended:
    """Wait until a command has ended."""
    out, err = process.communicate(timeout=seconds)
    return Ended(process.returncode, out, err)


def pipeline(cluster: Cluster, folder: Path) -> Pipeline:
    """A pipeline with exactly the rights of the Role."""
    cluster.kubectl("apply", "-f", str(ROLE))
    return Pipeline(cluster, folder)
