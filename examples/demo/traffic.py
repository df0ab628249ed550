"""Controls the load client's pod: sends commands through `kubectl exec`, and reads counts."""

import base64
import json
import subprocess
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from demo.corpus import Row
from demo.kube import Kube, restricted_pod

POD = "load"


def feedback_token(kube: Kube, namespace: str, service: str) -> str:
    """The token for corrections, read like a user of the service does. Raises RuntimeError if there is none."""
    secrets = kube.list("secrets", namespace, f"driftloop.dev/service={service}")
    if len(secrets) != 1:
        raise RuntimeError(f"{len(secrets)} Secrets with the label driftloop.dev/service={service}, expected one")
    return base64.b64decode(secrets[0]["data"]["token"]).decode()


class Traffic:
    """A running load client. Use it as a context manager: on exit, the client and its pod are stopped.

    It sends the rows of `pools` to `service`. A share of the answers gets a rating or a correction by the row's
    category, and a share of these is wrong.
    """

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        image: str,
        service: str,
        pools: Mapping[str, Sequence[Row]],
        feedback_share: float = 0.3,
        wrong_share: float = 0.02,
    ) -> None:
        self.kube, self.namespace, self.image = kube, namespace, image
        self.by_phase: dict[str, Counter[str]] = {}
        self.errors: dict[str, int] = {}
        self.config = {
            "url": f"http://{service}.{namespace}.svc",
            "feedbackUrl": f"http://{service}-feedback.{namespace}.svc",
            "token": feedback_token(kube, namespace, service),
            "model": service,
            "feedbackShare": feedback_share,
            "wrongShare": wrong_share,
            "seed": 11,
            "pools": dict(pools),
        }

    def __enter__(self) -> "Traffic":
        self.kube.apply(restricted_pod(POD, self.namespace, self.image, ["sleep", "infinity"]))
        self.kube.run(
            "wait", "-n", self.namespace, f"pod/{POD}", "--for=condition=Ready", "--timeout=120s", timeout=130
        )
        script = files("demo").joinpath("load.py").read_text()
        command = [*self.kube.command, "exec", "-i", "-n", self.namespace, POD, "--", "python", "-u", "-c", script]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._send(self.config)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._send({"stop": True})
            self.process.wait(timeout=120)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.reader.join(timeout=10)
        # Wait for the deletion, because the next client has the same name.
        self.kube.run("delete", "pod", POD, "-n", self.namespace, "--ignore-not-found", "--timeout=60s")
        if self.process.returncode and kind is None:  # the last counts are missing, so the totals would be wrong
            raise RuntimeError(f"the load client ended with status {self.process.returncode}")

    def phase(self, name: str, rate: float, **mix: float) -> None:
        """From now on, send `rate` requests per second, chosen from the pools by the weights in `mix`."""
        self._send({"phase": name, "rate": rate, "mix": mix})

    def sent(self, phase: str) -> int:
        """Number of requests sent in a phase so far. Raises RuntimeError if the client has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the load client ended with status {self.process.returncode}")
        return self.by_phase.get(phase, Counter())["sent"]

    def accuracy(self, phase: str) -> float:
        """Share of right answers in a phase so far."""
        counts = self.by_phase.get(phase, Counter())
        return counts["correct"] / counts["sent"] if counts["sent"] else 0.0

    def totals(self) -> dict[str, Any]:
        """`sent`, `failed`, `refused` (connections) and more in total, and the counts of every phase."""
        total: Counter[str] = Counter()
        for counts in self.by_phase.values():
            total.update(counts)
        by_phase = {name: dict(counts) for name, counts in self.by_phase.items()}
        return {
            "sent": total["sent"],
            "failed": total["failed"],
            "refused": total["refused"],
            "feedback": total["feedback"],
            "feedbackFailed": total["feedbackFailed"],
            "byPhase": by_phase,
            "errors": self.errors,
        }

    def _send(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            counts = json.loads(line)
            self.by_phase = {name: Counter(values) for name, values in counts["byPhase"].items()}
            self.errors = counts["errors"]
