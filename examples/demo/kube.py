"""Access to the cluster. Everything that the demo changes, a person can change with kubectl."""

import json
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from demo.reads import Obj, Reads

JUDGED = ("Approved", "AwaitingApproval", "Rejected", "Failed")  # final phases of a ModelVersion


class KubectlError(RuntimeError):
    """kubectl failed. The message is kubectl's."""


class Kube:
    """One cluster."""

    def __init__(self, kubectl: Path, kubeconfig: Path | None) -> None:
        self.command = [str(kubectl), *(["--kubeconfig", str(kubeconfig)] if kubeconfig else [])]
        self._reads = Reads(kubeconfig)

    def run(self, *arguments: str, stdin: str | bytes | None = None, timeout: float = 120) -> str:
        """Run `kubectl arguments`. Returns its standard output. Raises KubectlError."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*self.command, *arguments], input=data, capture_output=True, timeout=timeout, check=False
        )
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.decode().strip()}")
        return done.stdout.decode()

    def apply(self, *objects: Obj) -> None:
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.run("apply", "--server-side", "-f", "-", stdin=document)

    def get(self, kind: str, name: str, namespace: str) -> Obj | None:
        """Read an object; None if it does not exist. Raises ReadError."""
        return self._reads.get(kind, name, namespace)

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Obj]:
        """All objects of a kind that match the label selector. Raises ReadError."""
        return self._reads.list(kind, namespace, selector)

    def wait(
        self,
        what: str,
        ready: Callable[[], Any],
        seconds: float,
        every: float = 1.0,
        tell: Callable[[], str] | None = None,
    ) -> Any:
        """Wait for the first true value of `ready`. Raises TimeoutError with the text of `tell` after `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := ready():
                return value
            time.sleep(every)
        raise TimeoutError(f"{what}: not after {seconds:.0f} s" + (f": {tell()}" if tell else ""))

    def phase(
        self,
        kind: str,
        name: str,
        namespace: str,
        phases: Collection[str],
        seconds: float,
        tell: Callable[[], str] | None = None,
    ) -> Obj:
        """Wait until an object is in one of `phases`.

        Raises TimeoutError with the text of `tell`, or else with the object's conditions.
        """

        def in_phase() -> Obj | None:
            current = self.get(kind, name, namespace) or {}
            return current if current.get("status", {}).get("phase") in phases else None

        obj: Obj = self.wait(
            f"{name} {' or '.join(phases)}",
            in_phase,
            seconds,
            tell=tell or (lambda: conditions(self.get(kind, name, namespace))),
        )
        return obj


def condition(obj: Obj | None, kind: str) -> Obj:
    """The condition with this type, or an empty object."""
    entries = (obj or {}).get("status", {}).get("conditions", [])
    return next((c for c in entries if c["type"] == kind), {})


def conditions(obj: Obj | None) -> str:
    """Phase and conditions in one line."""
    status = (obj or {}).get("status", {})
    entries = [f"{c['type']}={c['status']} {c['reason']}: {c['message']}" for c in status.get("conditions", [])]
    return f"phase {status.get('phase')}; " + "; ".join(entries)


def restricted_pod(name: str, namespace: str, image: str, command: list[str]) -> Obj:
    """A pod with one container that the restricted Pod Security Standard admits."""
    container = {
        "name": name,
        "image": image,
        "command": command,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    user = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {**user, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    }
