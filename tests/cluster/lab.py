"""A namespace with Driftloop's objects in it, and what the fault tests do there."""

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


TRAINED = "trained"  # the job, and the family, of the model that tests share
STEPS = 400  # of its training: twenty seconds' or more
LONG = {"method": "pretrain", "maxSteps": STEPS, "saveSteps": 20}


@dataclass(frozen=True)
class Lab:
    """One namespace."""

    installed: install.Installed
    namespace: str

    @property
    def kube(self) -> Kube:
        return self.installed.kube

    def get(self, kind: str, name: str) -> Obj:
        """The object, or an empty one."""
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
        """Wait until the FineTuneJob is in one of `phases`."""
        return self.kube.phase("finetunejob", name, self.namespace, phases, 600, tell=lambda: self.story(name))

    def judged(self, version: str) -> Obj:
        """Wait until a ModelVersion is judged."""
        return self.kube.phase("modelversion", version, self.namespace, JUDGED, 600)

    def approve(self, version: str) -> None:
        """Let services take a version that no suite judged."""
        self.kube.run("annotate", "modelversion", version, "-n", self.namespace, f"{APPROVE_VERSION}={version}")
        self.kube.phase("modelversion", version, self.namespace, ["Approved"], 60)

    def checkpoint_beyond(self, name: str, step: int) -> int:
        """Wait until there is a whole checkpoint of more than `step` steps; its steps.

        `status.progress` is written at 5 %, and is seconds old: a small job ends between two looks at it.
        """

        def beyond() -> int | None:
            # It looks again and again in the pod: a kubectl each time took more CPU than the training.
            files = f"{self.run_folder(name)}/step-*/complete.json"
            count = f"ls -d {files} 2>/dev/null | sed 's/.*step-0*//; s/-.*//' | sort -n | tail -1"
            look = f'n=$({count}); [ "${{n:-0}}" -gt {step} ] && echo $n && break'
            return int(self.shell(f"for i in $(seq 100); do {look}; sleep 0.3; done") or 0) or None

        seen: int = self.kube.wait(f"{name} beyond step {step}", beyond, 300, tell=lambda: self.story(name))
        return seen

    def stalled(self, name: str) -> Obj:
        """Wait for the condition Stalled of a FineTuneJob."""

        def stalled() -> Obj | None:
            found = condition(self.get("finetunejob", name), "Stalled")
            return found if found.get("status") == "True" else None

        found: Obj = self.kube.wait(f"{name} Stalled", stalled, 300, tell=lambda: self.story(name))
        return found

    def starts(self, name: str, more_than: int = 0) -> Sequence[int]:
        """The step from which each start of the job's workers went on, in order; waits half a minute for so many."""
        folder = f"{self.run_folder(name)}/starts"
        # Each file ends without a newline.
        wait_for = f"for i in $(seq 30); do [ $(ls {folder} | wc -l) -gt {more_than} ] && break; sleep 1; done"
        command = f"{wait_for}; for file in {folder}/*.json; do cat $file; echo; done"
        lines = self.shell(command).split("\n")
        return [json.loads(line)["step"] for line in lines if line.strip()]

    def run_folder(self, name: str) -> str:
        """Where a job's checkpoints are, as the writer's pod sees it."""
        uid = self.get("finetunejob", name)["metadata"]["uid"]
        return f"/volumes/{install.CLAIM}/{name}/runs/{uid}"

    def shell(self, command: str) -> str:
        """What a command printed in the writer's pod, which has the claim."""
        return self.kube.run("exec", "-n", self.namespace, "writer", "--", "sh", "-c", command)

    def train_result(self, name: str) -> TrainResult:
        """What the train stage's index 0 told at its end."""
        for pod in self.list("pods", f"driftloop.dev/job={name},driftloop.dev/stage=train"):
            for status in pod["status"].get("containerStatuses", []):
                ended = status["state"].get("terminated", {})
                if ended.get("exitCode") == 0:
                    result = decode(ended["message"])
                    assert isinstance(result, TrainResult)
                    return result
        raise AssertionError(f"{name}: no train pod ended well: {self.story(name)}")

    def story(self, name: str) -> str:
        """Conditions and pods, for a failed wait."""
        job = self.get("finetunejob", name)
        pods = [
            f"{p['metadata']['name']} {p['status'].get('phase')}"
            for p in self.list("pods", f"driftloop.dev/job={name}")
        ]
        return json.dumps({"status": job.get("status"), "pods": pods})[:3000]

    def run_pod(self, name: str, image: str, command: Sequence[str]) -> str:
        """Run a command in a pod of its own to its end, whatever that is; what it printed."""
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
        """Write a file below the claim's root."""
        install.write_file(self.installed, self.namespace, path, text)

    def events(self, name: str) -> Sequence[Obj]:
        """The Events about an object."""
        return [e for e in self.list("events") if e["involvedObject"]["name"] == name]

    def wipe_status(self, kind: str, name: str) -> None:
        """Replace an object's status by nothing."""
        for _ in range(10):
            found = self.get(kind, name) | {"status": {}}
            try:
                self.kube.run("replace", "--subresource=status", "-f", "-", stdin=json.dumps(found))
                return
            except Exception as error:
                if "Conflict" not in str(error) and "modified" not in str(error):
                    raise
                time.sleep(0.2)
        raise AssertionError(f"the status of {kind} {name} could not be wiped")


def operator_pod(kube: Kube) -> Obj:
    """The operator's running pod. One that was just killed has a successor soon."""

    def running() -> Obj | None:
        pods = kube.list("pods", install.SYSTEM, "app.kubernetes.io/name=driftloop")
        alive = (p for p in pods if "deletionTimestamp" not in p["metadata"] and p["status"]["phase"] == "Running")
        return next(alive, None)

    found: Obj = kube.wait("an operator that runs", running, 120)
    return found


def nodes_without_operator(kube: Kube) -> Sequence[str]:
    """The nodes that may be lost without losing the operator."""
    kept = operator_pod(kube)["spec"]["nodeName"]
    return [name for name in _nodes(kube) if name != kept]


@contextmanager
def only_on(kube: Kube, node: str) -> Iterator[None]:
    """What is scheduled meanwhile is placed on `node`."""
    others = [name for name in _nodes(kube) if name != node]
    kube.run("cordon", *others)
    try:
        yield
    finally:
        kube.run("uncordon", *others)


def _nodes(kube: Kube) -> Sequence[str]:
    return [node["metadata"]["name"] for node in kube.list("nodes", "")]


def kill_operator(kube: Kube) -> None:
    """Kill the operator at once, as a crash would; its Deployment brings another."""
    name = operator_pod(kube)["metadata"]["name"]
    kube.run("delete", "pod", name, "-n", install.SYSTEM, "--grace-period=0", "--force", "--wait=false")


def source(name: str, file: str, **columns: str) -> Obj:
    """A data source in the claim."""
    return {"name": name, "uri": f"pvc://{install.CLAIM}/support-desk/data/{file}", "columns": columns}


def tiny_pools() -> Pools:
    """A corpus that trains in seconds."""
    return generated(40)
