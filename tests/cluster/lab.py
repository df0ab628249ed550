"""A namespace with Driftloop's objects, and the operations of fault tests in it."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from demo import install
from demo.kube import JUDGED, Kube, condition, restricted_pod
from demo.pools import Pools, generated
from demo.reads import Obj
from driftloop.contract.result import TrainResult, decode
from driftloop.controller.vocabulary.labels import APPROVE_VERSION

TINY: Obj = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


TRAINED = "trained"  # name of the job and of the family of the model that tests share
STEPS = 400  # steps of its training, which take at least 20 seconds
LONG = {"method": "pretrain", "maxSteps": STEPS, "saveSteps": 20}


@dataclass(frozen=True)
class Lab:
    """A namespace for fault tests."""

    installed: install.Installed
    namespace: str

    @property
    def kube(self) -> Kube:
        return self.installed.kube

    def get(self, kind: str, name: str) -> Obj:
        """An object; an empty one if it doesn't exist."""
        return self.kube.get(kind, name, self.namespace) or {}

    def list(self, kind: str, selector: str = "") -> list[Obj]:
        return self.kube.list(kind, self.namespace, selector)

    def apply(self, obj: Obj) -> None:
        """Apply an object in this namespace."""
        self.kube.apply({**obj, "metadata": {**obj["metadata"], "namespace": self.namespace}})

    def pretrain(self, name: str, **changes: Any) -> None:
        """Pretrain a tiny model on the corpus. `changes`: fields of the spec, merged one level deep."""
        spec: Obj = {
            "model": {"from": {"config": {"architecture": TINY, "tokenizer": {"vocabSize": 512}}}},
            "data": {"sources": [source("corpus", "corpus.csv", text="text")], "heldOutPercent": 0},
            "training": {
                "method": "pretrain",
                "maxLength": 48,
                "trainBatchSize": 32,
                "learningRate": 2e-3,
                "numTrainEpochs": 2,
                "saveSteps": 20,
            },
            "compute": {
                "nodes": 2,
                "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "3Gi"}},
            },
            "storage": f"pvc://{install.CLAIM}/{name}",
            "output": {"family": name},
        }
        for field, value in changes.items():
            spec[field] = {**spec[field], **value} if isinstance(value, dict) and field in spec else value
        self.kube.apply(
            {
                "apiVersion": "driftloop.dev/v1alpha1",
                "kind": "FineTuneJob",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": spec,
            }
        )

    def phase(self, name: str, *phases: str) -> Obj:
        """Wait until a FineTuneJob is in one of `phases`."""
        return self.kube.phase("finetunejob", name, self.namespace, phases, 600, tell=lambda: self.story(name))

    def judged(self, version: str) -> Obj:
        """Wait for the verdict on a ModelVersion."""
        return self.kube.phase("modelversion", version, self.namespace, JUDGED, 600)

    def approve(self, version: str) -> None:
        """Approve a version without suites."""
        self.kube.run("annotate", "modelversion", version, "-n", self.namespace, f"{APPROVE_VERSION}={version}")
        self.kube.phase("modelversion", version, self.namespace, ["Approved"], 60)

    def checkpoint_beyond(self, name: str, step: int) -> int:
        """Wait for a complete checkpoint after step `step`. Returns its step.

        `status.progress` is updated too rarely for this: a small job would end between two updates.
        """

        def beyond() -> int | None:
            # The loop runs in the pod, as calling kubectl each time took more CPU than the training.
            files = f"{self.run_folder(name)}/step-*/complete.json"
            count = f"ls -d {files} 2>/dev/null | sed 's/.*step-0*//; s/-.*//' | sort -n | tail -1"
            check = f'n=$({count}); [ "${{n:-0}}" -gt {step} ] && echo $n && break'
            return int(self.shell(f"for i in $(seq 100); do {check}; sleep 0.3; done") or 0) or None

        seen: int = self.kube.wait(f"{name} beyond step {step}", beyond, 300, tell=lambda: self.story(name))
        return seen

    def stalled(self, name: str) -> Obj:
        """Wait for the condition Stalled of a FineTuneJob."""

        def stalled() -> Obj | None:
            entry = condition(self.get("finetunejob", name), "Stalled")
            return entry if entry.get("status") == "True" else None

        result: Obj = self.kube.wait(f"{name} Stalled", stalled, 300, tell=lambda: self.story(name))
        return result

    def starts(self, name: str, more_than: int = 0) -> Sequence[int]:
        """The step at which each start of the job's workers resumed. Waits up to 30 s for `more_than` starts."""
        folder = f"{self.run_folder(name)}/starts"
        # Each file ends without a newline.
        wait_for = f"for i in $(seq 30); do [ $(ls {folder} | wc -l) -gt {more_than} ] && break; sleep 1; done"
        command = f"{wait_for}; for file in {folder}/*.json; do cat $file; echo; done"
        lines = self.shell(command).split("\n")
        return [json.loads(line)["step"] for line in lines if line.strip()]

    def run_folder(self, name: str) -> str:
        """The folder of a job's checkpoints in the writer's pod."""
        uid = self.get("finetunejob", name)["metadata"]["uid"]
        return f"/volumes/{install.CLAIM}/{name}/runs/{uid}"

    def shell(self, command: str) -> str:
        """Run a command in the writer's pod, which mounts the claim, and return its output."""
        return self.kube.run("exec", "-n", self.namespace, "writer", "--", "sh", "-c", command)

    def train_result(self, name: str) -> TrainResult:
        """The result of the train stage, from the pod that succeeded."""
        for pod in self.list("pods", f"driftloop.dev/job={name},driftloop.dev/stage=train"):
            for status in pod["status"].get("containerStatuses", []):
                ended = status["state"].get("terminated", {})
                if ended.get("exitCode") == 0:
                    result = decode(ended["message"])
                    assert isinstance(result, TrainResult)
                    return result
        raise AssertionError(f"{name}: no train pod succeeded: {self.story(name)}")

    def story(self, name: str) -> str:
        """Conditions and pods of a job, for the message of a failed wait."""
        job = self.get("finetunejob", name)
        pods = [
            f"{p['metadata']['name']} {p['status'].get('phase')}"
            for p in self.list("pods", f"driftloop.dev/job={name}")
        ]
        return json.dumps({"status": job.get("status"), "pods": pods})[:3000]

    def run_pod(self, name: str, image: str, command: Sequence[str]) -> str:
        """Run a command in a new pod until it succeeds or fails, and return its output."""
        pod = restricted_pod(name, self.namespace, image, [*command])
        pod["spec"]["restartPolicy"] = "Never"
        self.kube.apply(pod)

        def ended() -> bool:
            return bool(self.get("pod", name)["status"].get("phase") in ("Succeeded", "Failed"))

        self.kube.wait(f"pod {name}", ended, 300)
        printed = self.kube.run("logs", "-n", self.namespace, name)
        self.kube.run("delete", "pod", name, "-n", self.namespace, "--wait=false")
        return printed

    def write(self, path: str, text: str) -> None:
        """Write a file to the claim."""
        install.write_file(self.installed, self.namespace, path, text)

    def events(self, name: str) -> Sequence[Obj]:
        """The Events for an object."""
        return [e for e in self.list("events") if e["involvedObject"]["name"] == name]

    def wipe_status(self, kind: str, name: str) -> None:
        """Replace an object's status with an empty one."""
        for _ in range(10):
            wiped = self.get(kind, name) | {"status": {}}
            try:
                self.kube.run("replace", "--subresource=status", "-f", "-", stdin=json.dumps(wiped))
                return
            except Exception as error:
                if "Conflict" not in str(error) and "modified" not in str(error):
                    raise
                time.sleep(0.2)
        raise AssertionError(f"the status of {kind} {name} could not be wiped")


def operator_pod(kube: Kube) -> Obj:
    """The operator's running pod. Waits for a new one if it was just killed."""

    def running() -> Obj | None:
        pods = kube.list("pods", install.SYSTEM, "app.kubernetes.io/name=driftloop")
        alive = (p for p in pods if "deletionTimestamp" not in p["metadata"] and p["status"]["phase"] == "Running")
        return next(alive, None)

    pod: Obj = kube.wait("a running operator", running, 120)
    return pod


def nodes_without_operator(kube: Kube) -> Sequence[str]:
    """The nodes without the operator."""
    node = operator_pod(kube)["spec"]["nodeName"]
    return [name for name in _nodes(kube) if name != node]


@contextmanager
def only_on(kube: Kube, node: str) -> Iterator[None]:
    """Cordon all other nodes, so that new pods run on `node`."""
    others = [name for name in _nodes(kube) if name != node]
    kube.run("cordon", *others)
    try:
        yield
    finally:
        kube.run("uncordon", *others)


def _nodes(kube: Kube) -> Sequence[str]:
    return [node["metadata"]["name"] for node in kube.list("nodes", "")]


def kill_operator(kube: Kube) -> None:
    """Kill the operator's pod, like a crash. Its Deployment creates a new one."""
    name = operator_pod(kube)["metadata"]["name"]
    kube.run("delete", "pod", name, "-n", install.SYSTEM, "--grace-period=0", "--force", "--wait=false")


def source(name: str, file: str, **columns: str) -> Obj:
    """A data source for a file in the claim."""
    return {"name": name, "uri": f"pvc://{install.CLAIM}/support-desk/data/{file}", "columns": columns}


def tiny_pools() -> Pools:
    """A corpus so small that training takes seconds."""
    return generated(40)
