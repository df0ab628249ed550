"""Objects for the tests of FineTuneJob and ModelVersion, and a little of what a cluster does with them."""

import copy
import json
from datetime import UTC, datetime
from typing import Any

from driftloop.api.base import API_VERSION
from driftloop.api.finetunejob import FineTuneJob
from driftloop.api.modelversion import ModelVersion
from driftloop.contract.result import (
    AnswerResult,
    AnyResult,
    ApiCheck,
    EvaluateResult,
    ModelFacts,
    PrepareResult,
    SuiteItems,
    SuiteResult,
    TrainResult,
    encode,
)
from driftloop.controller.kinds.finetunejob import observed as finetunejob
from driftloop.controller.kinds.modelversion import observed as modelversion
from driftloop.controller.kinds.versions import follows
from driftloop.controller.vocabulary.conditions import timestamp
from driftloop.controller.vocabulary.labels import JOB, SERVICE, STAGE, VERSION
from driftloop.controller.vocabulary.naming import controlled_by, is_stage_pod, version_name
from driftloop.controller.vocabulary.plan import Apply, Create, Delete, Obj, Plan, Settings

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EARLIER = "2026-01-01T11:00:00Z"
SETTINGS = Settings(trainer_image="trainer:1", server_image="server:1")
UID = "11111111-2222-3333-4444-555555555555"


def digest(character: str = "a") -> str:
    """A digest, told apart by its character."""
    return "sha256:" + character * 64


def job(**spec: Any) -> Obj:
    """A FineTuneJob as the API server has it; keywords replace parts of the spec."""
    given = {
        "model": {"from": {"uri": "pvc://shared/base", "digest": digest("b")}},
        "data": {"sources": [{"name": "rows", "uri": "pvc://shared/rows.csv"}]},
        "training": {"trainBatchSize": 32, "numTrainEpochs": 2},
        "compute": {"nodes": 2, "resources": {"limits": {"memory": "2Gi", "cpu": "1"}}},
        "storage": "pvc://shared/work",
        "evaluation": {"suites": [{"name": "new", "kind": "target", "items": "data"}]},
        "output": {"family": "support"},
    } | spec
    body = {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "metadata": {"name": "tune", "namespace": "team", "uid": UID, "generation": 1, "creationTimestamp": EARLIER},
        "spec": given,
    }
    return body | {"spec": FineTuneJob.model_validate(body).spec.dump()}


def version(name: str = "support-1", character: str = "a", created: str = EARLIER, **spec: Any) -> Obj:
    """A ModelVersion as the API server has it."""
    given = {
        "family": "support",
        "artefact": {"uri": f"pvc://shared/versions/{name}", "digest": digest(character)},
        "evaluation": {
            "suites": [{"name": "new", "kind": "target", "uri": "pvc://shared/new.jsonl", "digest": digest("d")}],
            "storage": "pvc://shared/evaluations",
        },
    } | spec
    body = {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "generation": 1,
            "creationTimestamp": created,
        },
        "spec": given,
    }
    return body | {"spec": ModelVersion.model_validate(body).spec.dump()}


def approved(obj: Obj) -> Obj:
    """The version, with an Approved status."""
    return obj | {"status": {"phase": "Approved"}}


def service(name: str = "desk", **spec: Any) -> Obj:
    """An InferenceService; only what others read of it."""
    return {
        "apiVersion": API_VERSION,
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": "team", "uid": f"uid-{name}"},
        "spec": {"model": {"family": "support"}} | spec,
    }


def deployment(of: Obj, version_of: str, role: str = "stable", since: str = EARLIER) -> Obj:
    """A Deployment of a service, with its labels."""
    name = f"{of['metadata']['name']}-{version_of}"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "creationTimestamp": EARLIER,
            "labels": {
                SERVICE: of["metadata"]["name"],
                VERSION: version_of,
                "driftloop.dev/role": role,
                "driftloop.dev/revision": "r1",
            },
            "annotations": {"driftloop.dev/since": since},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "InferenceService",
                    "name": of["metadata"]["name"],
                    "uid": of["metadata"]["uid"],
                    "controller": True,
                }
            ],
        },
    }


def claim(name: str = "shared", mode: str = "ReadWriteMany") -> dict[str, Obj]:
    """A PersistentVolumeClaim, by its name."""
    return {name: {"metadata": {"name": name, "namespace": "team"}, "spec": {"accessModes": [mode]}}}


def prepared(**changes: Any) -> PrepareResult:
    """What prepare says of a small data set and a model of a million parameters."""
    given: dict[str, Any] = {
        "uri": "pvc://shared/work/prepared/x",
        "digest": digest("c"),
        "train_rows": 1000,
        "sequences": 1000,
        "held_out_rows": 100,
        "tokens": 50_000,
        "trained_tokens": 20_000,
        "longest_row_tokens": 60,
        "tokenizer_digest": digest("e"),
        "model": facts(),
        "suites": [
            SuiteItems(name="new", uri="pvc://shared/work/new.jsonl", digest=digest("d"), items=100, clusters=90)
        ],
    }
    return PrepareResult(**(given | changes))


def facts(parameters: int = 1_100_000, **changes: int) -> ModelFacts:
    """A Llama with 4 layers."""
    given: dict[str, Any] = {
        "model_type": "llama",
        "parameters": parameters,
        "trainable_parameters": parameters,
        "embedding_parameters": parameters // 4,
        "largest_layer_parameters": parameters // 5,
        "num_layers": 4,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 2048,
        "max_position_embeddings": 512,
        "tied_embeddings": True,
    }
    return ModelFacts(**(given | changes))


def trained() -> TrainResult:
    """What train says."""
    return TrainResult(
        uri="pvc://shared/work/versions/x",
        digest=digest("f"),
        steps=63,
        loss=0.25,
        tokens_per_second=1234.5,
        world_size=2,
        nodes=2,
        seconds=60,
    )


def evaluated(candidate: str, baseline: str | None = None, correct: int = 950) -> EvaluateResult:
    """What the client found: 1,000 items, the baseline right in 900 of them."""
    paired: dict[str, Any] = {}
    if baseline:
        moved = correct - 900
        gained, lost = max(moved, 0) + 10, max(-moved, 0) + 10
        paired = {"baseline_correct": 900, "gained": gained, "lost": lost, "difference_standard_error": 0.008}
    suite = SuiteResult(name="new", items=1000, clusters=1000, correct=correct, standard_error=0.007, **paired)
    return EvaluateResult(
        uri="pvc://shared/evaluations/x",
        digest=digest("9"),
        candidate_digest=candidate,
        baseline_digest=baseline,
        api=ApiCheck(passed=12),
        suites=[suite],
    )


def answered(model: str) -> AnswerResult:
    """What the client found that asked the stable version."""
    return AnswerResult(uri="pvc://shared/evaluations/answers", digest=digest("8"), model_digest=model, items=1000)


class Cluster:
    """Takes plans as the API server would, and ends Jobs as a kubelet and the Job controller would."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Obj] = {}
        self.pods: list[Obj] = []
        self.writes: list[str] = []
        self._uid = 0

    def take(self, plan: Plan) -> None:
        """Create, apply and delete; nothing that is there already is written again."""
        for action in plan.writes:
            match action:
                case Create(body) | Apply(body):
                    self._put(body)
                case Delete(kind="Pod"):
                    self.pods = [pod for pod in self.pods if pod["metadata"]["uid"] != action.uid]
                case Delete():
                    self.writes.append(f"delete {action.kind} {action.name}")
                    del self.objects[action.kind, action.name]
                    self.pods = [pod for pod in self.pods if not controlled_by(pod, action.uid)]
                case _:
                    self.writes.append(repr(action))

    def of_kind(self, kind: str) -> list[Obj]:
        """The objects of a kind, by name."""
        return [obj for (found, _), obj in sorted(self.objects.items()) if found == kind]

    def job(self, stage: str) -> Obj:
        """The Job of a stage; the latest, where there are several."""
        found = [obj for obj in self.of_kind("Job") if obj["metadata"]["labels"][STAGE] == stage]
        return max(found, key=lambda obj: int(obj["metadata"]["uid"].removeprefix("uid-")))

    def finish(self, stage: str, result: AnyResult, ended: datetime | None = None) -> None:
        """The pod with index 0 ends well, and so does the Job: an hour ago, if it isn't said."""
        found = self.job(stage)
        self.pods.append(pod_of(found, terminated(stage, 0, encode(result))))
        self._conditions(found, "Complete", completionTime=timestamp(ended) if ended else EARLIER)

    def fail(self, stage: str, *statuses: Obj, reason: str = "PodFailurePolicy") -> None:
        """A pod ends with these container statuses, and the Job has failed."""
        found = self.job(stage)
        self.pods.append(pod_of(found, *statuses, phase="Failed"))
        self._conditions(found, "Failed", reason=reason)

    def _conditions(self, found: Obj, type_: str, reason: str = "", **status: Any) -> None:
        entry = {"type": type_, "status": "True", "reason": reason, "message": "", "lastTransitionTime": EARLIER}
        key = ("Job", found["metadata"]["name"])
        self.objects[key] = found | {"status": {"conditions": [entry], **status}}

    def _put(self, body: Obj) -> None:
        key = (body["kind"], body["metadata"]["name"])
        if key in self.objects:
            return
        self._uid += 1
        self.writes.append(f"write {key[0]} {key[1]}")
        stored = copy.deepcopy(body)
        stored["metadata"] |= {"uid": f"uid-{self._uid}", "creationTimestamp": EARLIER}
        self.objects[key] = stored


def pod_of(owner: Obj, *statuses: Obj, phase: str = "Running", index: int = 0, init: tuple[Obj, ...] = ()) -> Obj:
    """A pod that a Job made."""
    metadata = owner["metadata"]
    name = f"{metadata['name']}-{index}-abcde"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}-{metadata['uid']}",
            "labels": dict(metadata["labels"]),
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {"nodeName": "node-a"},
        "status": {"phase": phase, "containerStatuses": list(statuses), "initContainerStatuses": list(init)},
    }


def terminated(name: str, code: int, message: str = "", reason: str = "Error", at: str = EARLIER) -> Obj:
    """Status of a container that has ended."""
    return {
        "name": name,
        "state": {"terminated": {"exitCode": code, "message": message, "reason": reason, "finishedAt": at}},
    }


def waiting(name: str, reason: str, message: str = "") -> Obj:
    """Status of a container that doesn't start."""
    return {"name": name, "state": {"waiting": {"reason": reason, "message": message}}}


def observe_job(body: Obj, cluster: Cluster, status: Obj | None = None, **more: Any) -> finetunejob.Observed:
    """What an observer would find of a FineTuneJob."""
    body = json.loads(json.dumps(body | ({"status": status} if status else {})))
    parsed = FineTuneJob.model_validate(body)
    uid = body["metadata"]["uid"]
    key = ("ModelVersion", version_name(parsed.spec.output.family, uid))
    given: dict[str, Any] = {
        "status": parsed.status,
        "jobs": tuple(obj for obj in cluster.of_kind("Job") if controlled_by(obj, uid)),
        "pods": tuple(
            pod
            for pod in cluster.pods
            if pod["metadata"]["labels"].get(JOB) == body["metadata"]["name"] and is_stage_pod(body, pod)
        ),
        "version": cluster.objects.get(key),
        "claims": claim(),
        "fresh_secret": "token",
    }
    return finetunejob.Observed(job=body, spec=parsed.spec, **(given | more))


def observe_version(body: Obj, cluster: Cluster, status: Obj | None = None, **more: Any) -> modelversion.Observed:
    """What an observer would find of a ModelVersion."""
    body = json.loads(json.dumps(body | ({"status": status} if status else {})))
    parsed = ModelVersion.model_validate(body)
    uid = body["metadata"]["uid"]
    services = [found for found in more.pop("services", ()) if follows(found, parsed.spec.family)]
    given: dict[str, Any] = {
        "status": parsed.status,
        "jobs": tuple(obj for obj in cluster.of_kind("Job") if controlled_by(obj, uid)),
        "pods": tuple(
            pod
            for pod in cluster.pods
            if pod["metadata"]["labels"].get(VERSION) == body["metadata"]["name"] and is_stage_pod(body, pod)
        ),
        "services": tuple(services),
        "versions": (body,),
        "claims": claim(),
    }
    return modelversion.Observed(version=body, spec=parsed.spec, **(given | more))
