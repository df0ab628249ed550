"""The real API server accepts the CRDs, sets the same defaults as pydantic, and names the field in refusals."""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from driftloop.api.base import API_VERSION
from driftloop.cli.crds import KINDS
from testcluster.console import Error
from testcluster.controlplane import ControlPlane

pytestmark = pytest.mark.control_plane

Obj = dict[str, Any]
DIGEST = "sha256:" + "0" * 64
GONE = object()  # in the table: the field is removed


def thing(kind: str, name: str, spec: Obj) -> Obj:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def job(name: str = "tune") -> Obj:
    return thing(
        "FineTuneJob",
        name,
        {
            "model": {"from": {"uri": "pvc://models/base", "digest": DIGEST}},
            "data": {"sources": [{"name": "rows", "uri": "s3://bucket/rows.csv"}]},
            "storage": "pvc://models/support",
            "output": {"family": "support"},
        },
    )


def gpus() -> Obj:
    found = job()
    found["spec"]["compute"] = {"gpusPerNode": 2}
    found["spec"]["training"] = {"float8": True}
    return found


def split() -> Obj:
    found = job()
    found["spec"]["compute"] = {"workersPerNode": 2, "parallelism": {"tensor": 2}}
    return found


def staged() -> Obj:
    found = job()
    found["spec"]["compute"] = {"nodes": 2, "parallelism": {"pipeline": 2}}
    return found


def shared() -> Obj:
    found = job()
    found["spec"]["compute"] = {"nodes": 2, "parallelism": {"context": 2}}
    return found


def pretraining() -> Obj:
    found = job()
    found["spec"]["model"]["from"] = {"config": {"architecture": {"model_type": "llama", "hidden_size": 128}}}
    found["spec"]["training"] = {"method": "pretrain"}
    return found


def preferring() -> Obj:
    found = job()
    columns = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    found["spec"]["data"]["sources"][0]["columns"] = columns
    found["spec"]["data"]["replay"] = {"sources": sources("old")}
    found["spec"]["training"] = {"method": "dpo", "beta": 0.2}
    return found


def labelled() -> Obj:
    found = job()
    found["spec"]["data"]["sources"][0]["columns"] = {"prompt": "question", "completion": "answer", "label": "liked"}
    found["spec"]["training"] = {"method": "kto", "beta": 0.2, "desirableWeight": 2}
    return found


def version(name: str = "support-0123abcd") -> Obj:
    return thing("ModelVersion", name, {"family": "support", "artefact": {"uri": "pvc://models/v1", "digest": DIGEST}})


def service(name: str = "support") -> Obj:
    spec = {"model": {"family": "support"}, "retraining": {"jobTemplate": {"spec": job()["spec"]}}}
    return thing("InferenceService", name, spec)


def sleeping() -> Obj:
    found = service()
    found["spec"]["scaleToZero"] = {}
    return found


def gated() -> Obj:
    found = service()
    found["spec"]["gateway"] = {"name": "public"}
    return found


def steps(*weights: int) -> list[Obj]:
    return [{"weight": weight} for weight in weights]


def put(path: str, value: Any) -> Callable[[Obj], None]:
    """Change one field of an object. Missing parents in `path` are created."""

    def change(body: Obj) -> None:
        *parents, last = path.split(".")
        for step in parents:
            body = body.setdefault(step, {})
        if value is GONE:
            del body[last]
        else:
            body[last] = value

    return change


def sources(*names: str) -> list[Obj]:
    return [{"name": name, "uri": "pvc://data/rows.csv"} for name in names]


FLOOR: Obj = {"kind": "floor"}
CUSTOM: Obj = {"type": "custom", "image": "my/server:1"}


def suites(*several: Obj) -> list[Obj]:
    return [{"name": "old", "kind": "retention"} | each for each in several]


def measured(**metric: Any) -> list[Obj]:
    return suites({"items": "data", "metric": metric})


def label(value: Any) -> str:
    """The name of a test by its parameters, the same in each run."""
    if callable(value):
        return str(value.__name__)
    return "absent" if value is GONE else str(value)[:40]


def required(**requirement: Any) -> Obj:
    """An affinity to nodes with one requirement."""
    terms = [{"matchExpressions": [{"key": "pool"} | requirement]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


AFFINITY = "spec.podOverrides.affinity"
SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
FROM = "spec.model.from"
JUDGE = {"url": "https://judge.example.org/v1", "model": "big"}
AUGMENT = {"type": "augment", "fraction": 0.5}
TEMPLATE = "spec.retraining.jobTemplate.spec"
# An object, a change that makes it invalid, and what the message must contain, starting with the field.
WRONG: list[tuple[Callable[[], Obj], str, Any, str]] = [
    (job, "metadata.name", "a" * 41, "metadata.name.*at most 40"),
    (job, "metadata.name", "1st", "metadata.name.*beginning with a letter"),
    (job, "metadata.name", "a.b", "metadata.name.*digits and dashes"),
    (version, "metadata.name", "v" * 41, "metadata.name.*at most 40"),
    (service, "metadata.name", "s" * 41, "metadata.name.*at most 40"),
    (job, "spec", GONE, "spec: Required"),
    (job, "spec.model", GONE, "spec.model: Required"),
    (job, FROM, {}, f"{FROM}.*set exactly one of uri, versionRef"),
    (job, f"{FROM}.versionRef", {"name": "v1"}, f"{FROM}.*set exactly one of"),
    (job, FROM, {"versionRef": {"name": "v1"}, "digest": DIGEST}, f"{FROM}.digest.*digest needs uri"),
    (job, FROM, {"versionRef": {"name": "v1", "namespace": "theirs"}}, f'unknown field "{FROM}.versionRef.namespace"'),
    (job, f"{FROM}.digest", "sha256:12", f"{FROM}.digest"),
    (job, FROM, {"uri": "hf://org/model", "digest": DIGEST}, f"{FROM}.digest.*write the commit, hf://ORG/MODEL@COMMIT"),
    (job, f"{FROM}.uri", "https://example.org/model", f"{FROM}.uri"),
    (job, f"{FROM}.uri", "s3://key:secret@bucket/model", f"{FROM}.uri"),
    (job, f"{FROM}.uri", "s3://bucket/model?signature=x", f"{FROM}.uri"),
    (job, f"{FROM}.uri", "pvc://claim/../other", f"{FROM}.uri"),
    (job, f"{FROM}.uri", "file:///etc/passwd", f"{FROM}.uri"),
    (pretraining, "spec.training.method", "sft", "spec.training.method.*pretrain"),
    (pretraining, "spec.training.adapter", {"type": "lora"}, "spec.training.adapter.*trained weights"),
    (pretraining, f"{FROM}.config.tokenizer", {"vocabSize": 10}, f"{FROM}.config.tokenizer.vocabSize"),
    (pretraining, f"{FROM}.config.architecture", "llama", f"{FROM}.config.architecture"),
    (job, "spec.data", {}, "spec.data.sources.*at least one source"),
    (job, "spec.data.sources", sources("one", "one"), "spec.data.sources.*Duplicate"),
    (job, "spec.data.sources", sources(*(f"s{i}" for i in range(33))), "spec.data.sources.*at most 32"),
    (job, "spec.data.sources", [{"name": "rows"}], r"spec.data.sources\[0\].uri: Required"),
    (job, "spec.data.sources", [*sources("a"), {"name": "B", "uri": "s3://b"}], r"spec.data.sources\[1\].name"),
    (job, "spec.data.sources", [sources("a")[0] | {"format": "xlsx"}], r"spec.data.sources\[0\].format.*parquet"),
    (job, "spec.data.steps", [{"type": "shuffle"}], r"spec.data.steps\[0\].type.*dedupNear"),
    (job, "spec.data.steps", [{"type": "dedupNear", "threshold": 1.5}], r"spec.data.steps\[0\].threshold"),
    (job, "spec.data.steps", [{"type": "augment"}], r"spec.data.steps\[0\].fraction.*augment needs a fraction"),
    (
        job,
        "spec.data.steps",
        [{"type": "dedupNear", "fraction": 1}],
        r"spec.data.steps\[0\].fraction.*needs type: augment",
    ),
    (job, "spec.data.steps", [{"type": "normalise", "seed": 1}], r"spec.data.steps\[0\].seed.*needs type: augment"),
    (job, "spec.data.steps", [AUGMENT, {"type": "normalise"}], "spec.data.steps.*augment must be the last step"),
    (job, "spec.data.steps", [AUGMENT, AUGMENT], "spec.data.steps.*augment must be the last step, and occur once"),
    (job, "spec.data.heldOutPercent", 51, "spec.data.heldOutPercent.*50"),
    (job, "spec.data.replay", {"sources": []}, "spec.data.replay.sources.*at least 1"),
    (job, "spec.data.replay", {"sources": sources("old"), "fraction": -0.1}, "spec.data.replay.fraction"),
    (job, "spec.data.feedback", {}, "spec.data.feedback.service: Required"),
    (job, "spec.training.method", "rlhf", "spec.training.method.*dpo"),
    (job, "spec.training.beta", 0.2, "spec.training.beta.*only for methods dpo and kto"),
    (job, "spec.training", {"method": "dpo", "beta": 0}, "spec.training.beta.*greater than 0"),
    (job, "spec.training", {"method": "dpo", "packing": True}, "spec.training.packing.*not packed"),
    (job, "spec.training.entrypoint", "module.function", "spec.training.entrypoint"),
    (job, "spec.training.entrypoint", "../module:train", "spec.training.entrypoint"),
    (job, "spec.training", {"entrypoint": "own:train", "validation": {}}, "spec.training.validation.*of your own"),
    (job, "spec.training.image", "team/trainer:1", "spec.training.image.*set entrypoint"),
    (job, "spec.training.code", "pvc://models/code", "spec.training.code.*set entrypoint"),
    (job, "spec.training", {"entrypoint": "own:train", "code": "s3://b/c"}, "spec.training.code.*on a claim"),
    (job, "spec.training", {"entrypoint": "own:train", "image": "a b"}, "spec.training.image"),
    (job, "spec.training.reportTo", ["mlflow"], "spec.training.tracking.*set tracking.uri"),
    (job, "spec.training.reportTo", ["comet"], "spec.training.reportTo"),
    (job, "spec.training.reportTo", ["wandb", "wandb"], "spec.training.reportTo.*[Dd]uplicate"),
    (job, "spec.training.tracking", {"uri": "http://mlflow:5000"}, "spec.training.reportTo.*add mlflow"),
    (job, "spec.training.tracking", {"secret": {"name": "keys"}}, "spec.training.reportTo.*list one"),
    (job, "spec.training.tracking.uri", "http://me:pass@mlflow", "spec.training.tracking.uri"),
    (service, f"{TEMPLATE}.training.reportTo", ["mlflow"], f"{TEMPLATE}.training.tracking.*set tracking.uri"),
    (job, "spec.training", {"method": "dpo", "lossOn": "all"}, "spec.training.lossOn.*compare answers"),
    (split, "spec.training.method", "dpo", "spec.training.method.*not tested with compute.parallelism"),
    (staged, "spec.training.method", "dpo", "spec.training.method.*not tested with compute.parallelism"),
    (shared, "spec.training.method", "dpo", "spec.training.method.*not tested with compute.parallelism"),
    (preferring, "spec.training", {}, "spec.training.method.*chosen and rejected are only for method dpo"),
    (preferring, "spec.data.feedback", {"service": "support"}, "spec.training.method.*feedback has one answer"),
    (split, "spec.training.adapter", {"type": "osf"}, "spec.training.adapter.type.*osf is not trained with"),
    (staged, "spec.training.adapter", {"type": "osf"}, "spec.training.adapter.type.*osf is not trained with"),
    (split, "spec.training.adapter", {"type": "qlora"}, "spec.training.adapter.type.*qlora is not trained with"),
    (staged, "spec.training.adapter", {"type": "qlora"}, "spec.training.adapter.type.*qlora is not trained with"),
    (job, "spec.training.adapter", {"type": "osf", "r": 8}, "spec.training.adapter.*osf has no r"),
    (job, "spec.training.adapter", {"type": "osf", "effectiveRank": 1}, "effectiveRank.*less than 1"),
    (job, "spec.output.mergeAdapter", False, "spec.output.mergeAdapter.*set training.adapter.type to lora or qlora"),
    (service, f"{TEMPLATE}.output.mergeAdapter", False, f"{TEMPLATE}.output.mergeAdapter.*lora or qlora"),
    (version, "spec.artefact.bases", ["file:///etc"], "spec.artefact.bases"),
    (version, "spec.artefact.bases", [f"pvc://shared/{n}" for n in range(5)], "spec.artefact.bases.*at most 4"),
    (job, "spec.training.float8", True, "spec.training.float8.*set compute.gpusPerNode"),
    (gpus, "spec.compute.gpuResource", "amd.com/gpu", "spec.training.float8.*only for NVIDIA GPUs"),
    (gpus, "spec.training.adapter", {"type": "lora"}, "spec.training.float8.*remove float8, or training.adapter"),
    (gpus, "spec.training.adapter", {"type": "osf"}, "spec.training.float8.*remove float8, or training.adapter"),
    (gpus, "spec.training.method", "kto", "spec.training.float8.*methods sft and pretrain"),
    (gpus, "spec.training.compile", False, "spec.training.float8.*remove compile: false"),
    (gpus, "spec.training.bf16", False, "spec.training.float8.*remove bf16: false"),
    (gpus, "spec.training.entrypoint", "own:train", "spec.training.float8.*remove float8, or entrypoint"),
    (gpus, "spec.compute.parallelism", {"tensor": 2}, "spec.training.float8.*not exact with .*tensor or context"),
    (gpus, "spec.compute.parallelism", {"context": 2}, "spec.training.float8.*not exact with .*tensor or context"),
    (job, "spec.training.adapter.effectiveRank", 0.3, "spec.training.adapter.effectiveRank.*only for adapter osf"),
    (job, "spec.training.desirableWeight", 2, "spec.training.desirableWeight.*only for method kto"),
    (job, "spec.training.undesirableWeight", 2, "spec.training.undesirableWeight.*only for method kto"),
    (labelled, "spec.training.desirableWeight", 0, "spec.training.desirableWeight.*greater than 0"),
    (labelled, "spec.training.packing", True, "spec.training.packing.*not packed"),
    (labelled, "spec.training.lossOn", "all", "spec.training.lossOn.*compare answers"),
    (labelled, "spec.training.method", "dpo", "spec.training.method.*only for method kto"),
    (
        labelled,
        "spec.data.sources",
        [sources("rows")[0] | {"columns": {"prompt": "q", "completion": "a"}}],
        "spec.training.method.*name the columns label",
    ),
    (
        labelled,
        "spec.data.sources",
        [sources("rows")[0] | {"columns": {"prompt": "q", "messages": "m", "label": "l"}}],
        "spec.training.method.*name the columns label",
    ),
    (split, "spec.training.method", "kto", "spec.training.method.*not tested with compute.parallelism"),
    (
        preferring,
        "spec.data.replay.sources",
        [sources("old")[0] | {"columns": {"prompt": "q", "completion": "a"}}],
        "spec.training.method.*name the columns chosen and rejected",
    ),
    (
        preferring,
        "spec.data.sources",
        [sources("rows")[0] | {"columns": {"chosen": "a"}}],
        "spec.training.method.*name the columns chosen and rejected",
    ),
    (job, "spec.compute", {"nodes": 2, "elastic": {"minNodes": 3}}, "spec.compute.elastic.*more than nodes"),
    (staged, "spec.compute.elastic", {"minNodes": 1}, "spec.compute.elastic.*not tested with parallelism.pipeline"),
    (job, "spec.training.validation", {"percent": 51}, "spec.training.validation.percent.*50"),
    (job, "spec.training.validation", {"keep": "first"}, "spec.training.validation.keep.*best"),
    (job, "spec.training.numTrainEpochs", 0, "spec.training.numTrainEpochs.*greater than 0"),
    (job, "spec.training.learningRate", 0, "spec.training.learningRate.*greater than 0"),
    (job, "spec.training.learningRate", "2e-5", "spec.training.learningRate.*number"),
    (job, "spec.training.warmupRatio", 2, "spec.training.warmupRatio"),
    (job, "spec.training.trainBatchSize", 0, "spec.training.trainBatchSize"),
    (job, "spec.training.maxLength", 4, "spec.training.maxLength.*8"),
    (job, "spec.training.seed", -1, "spec.training.seed"),
    (job, "spec.training.epochs", 3, 'unknown field "spec.training.epochs"'),
    (job, "spec.training.adapter.r", 0, "spec.training.adapter.r"),
    (job, "spec.compute.nodes", 0, "spec.compute.nodes"),
    (job, "spec.compute.env", [{"name": "RAY_AUTH_MODE", "value": "none"}], "spec.compute.env.*RAY_.*remove them"),
    (job, "spec.compute.env", [{"name": "HOME", "value": "/root"}], "spec.compute.env.*sets this variable"),
    (job, "spec.compute.gpuResource", "gpu", "spec.compute.gpuResource"),
    (job, "spec.compute.gpuClaimTemplate", "h100s", "spec.compute.gpusPerNode.*gpuClaimTemplate needs gpusPerNode"),
    (service, "spec.engine.gpuClaimTemplate", "h100s", "spec.engine.gpus.*gpuClaimTemplate needs engine.gpus"),
    (job, "spec.podOverrides.schedulerName", "Gang", "spec.podOverrides.schedulerName"),
    (job, "spec.compute.nodes", 513, "spec.compute.nodes.*512"),
    (job, "spec.compute", {"gpusPerNode": 4, "workersPerNode": 2}, "spec.compute.workersPerNode.*must be 1"),
    (job, "spec.compute", {"gpusPerNode": 8, "parallelism": {"tensor": 3}}, "spec.compute.parallelism.*must divide"),
    (job, "spec.compute", {"parallelism": {"tensor": 2}}, "spec.compute.parallelism.*must divide"),
    (
        job,
        "spec.compute",
        {"nodes": 3, "parallelism": {"pipeline": 2}},
        "spec.compute.parallelism.*must divide the num",
    ),
    (
        job,
        "spec.compute",
        {"nodes": 2, "workersPerNode": 2, "parallelism": {"pipeline": 4, "tensor": 2}},
        "must divide",
    ),
    (
        staged,
        "spec.training.adapter",
        {"type": "lora", "targetModules": ["q_proj", "model.embed_tokens"]},
        "targetModules.*embed_tokens is not trained with compute.parallelism.pipeline",
    ),
    (job, "spec.compute", {"nodes": 3, "parallelism": {"dataReplicate": 2}}, "spec.compute.parallelism.*divide nodes"),
    (
        job,
        "spec.compute",
        {"nodes": 2, "gpusPerNode": 8, "parallelism": {"dataReplicate": 8, "tensor": 4}},
        "spec.compute.parallelism.*divide nodes",
    ),
    (job, "spec.compute", {"parallelism": {"stagesPerWorker": 2}}, "stagesPerWorker.*set pipeline to 2 or more"),
    (job, "spec.compute.parallelism.dataReplicate", 0, "spec.compute.parallelism.dataReplicate.*1"),
    (staged, "spec.compute.parallelism.dataReplicate", 2, "spec.compute.parallelism.*must divide the num"),
    (
        job,
        "spec.compute",
        {"nodes": 3, "parallelism": {"context": 2}},
        "spec.compute.parallelism.*context x tensor must",
    ),
    (
        job,
        "spec.compute",
        {"nodes": 2, "workersPerNode": 2, "parallelism": {"context": 4, "dataReplicate": 2}},
        "spec.compute.parallelism.*context x tensor must divide the num",
    ),
    (job, "spec.compute.parallelism.context", 65, "spec.compute.parallelism.context.*64"),
    (job, "spec.compute.parallelism.tensor", 0, "spec.compute.parallelism.tensor.*1"),
    (job, "spec.compute.resources.requests", {"cpu": "lots"}, "spec.compute.resources.requests.cpu"),
    (job, "spec.compute.resources.requests", {"cpu": -1}, "spec.compute.resources.requests.cpu"),
    (job, "spec.compute.resources.requests", {"cpu": "-1"}, "spec.compute.resources.requests.cpu"),
    (job, "spec.compute.resources.requests", {"cpu": 0.5}, "spec.compute.resources.requests.cpu"),
    (job, "spec.compute.gpuMemory", "80GiB", "spec.compute.gpuMemory"),
    (job, "spec.compute.queueName", "q" * 64, "spec.compute.queueName.*63"),
    (job, "spec.podOverrides.imagePullSecrets", [{"name": "Reg_Cred"}], r"imagePullSecrets\[0\].name"),
    (job, "spec.storage", GONE, "spec.storage: Required"),
    (job, "spec.output.family", "f" * 32, "spec.output.family.*31"),
    (job, "spec.evaluation.suites", suites({}), r"spec.evaluation.suites\[0\].*exactly one of items, uri"),
    (
        job,
        "spec.evaluation.suites",
        suites({"items": "data", "uri": "s3://b/i.csv"}),
        r"spec.evaluation.suites\[0\].*exactly one of items, uri",
    ),
    (
        job,
        "spec.evaluation.suites",
        suites({"items": "data"}, {"items": "replay"}),
        "spec.evaluation.suites.*Duplicate",
    ),
    (job, "spec.evaluation.suites", suites({"items": "data", "maxItems": 5}), r"suites\[0\].maxItems.*10"),
    (job, "spec.evaluation.suites", measured(type="bleu"), r"suites\[0\].metric.type.*chrf"),
    (job, "spec.evaluation.suites", measured(type="regex", pattern="(a"), r"suites\[0\].metric.*missing closing \)"),
    (job, "spec.evaluation.suites", measured(pattern="a"), r"suites\[0\].metric.pattern.*needs type: regex"),
    (job, "spec.evaluation.suites", measured(type="chrf", tolerance=1), r"metric.tolerance.*needs type: numeric"),
    (job, "spec.evaluation.suites", measured(type="rouge", fields=["a"]), r"metric.fields.*needs type: json"),
    (job, "spec.evaluation.suites", measured(type="json", schema="{}"), r"metric.schema.*object"),
    (job, "spec.evaluation.suites", measured(type="chrf", ignoreCase=True), "ignoreCase.*exact or contains"),
    (job, "spec.evaluation.suites", measured(type="judge"), r"suites\[0\].metric.judge.*needs a judge"),
    (job, "spec.evaluation.suites", measured(judge=JUDGE), r"suites\[0\].metric.judge.*needs type: judge"),
    (job, "spec.evaluation.suites", measured(type="judge", judge=JUDGE | {"url": "http://u:p@h"}), r"metric.judge.url"),
    (
        job,
        "spec.evaluation.suites",
        suites({"items": "data", "kind": "floor", "metric": {"type": "judge", "judge": JUDGE}}),
        r"suites\[0\].kind.*compares two versions",
    ),
    (
        job,
        "spec.evaluation.suites",
        suites({"items": "data", "kind": "floor", "totalDelta": 0.1}),
        r"suites\[0\].totalDelta.*use kind retention",
    ),
    (job, "spec.evaluation.suites", suites({"items": "data", "totalDelta": 0.01}), r"totalDelta.*at least delta"),
    (job, "spec.evaluation.suites", suites({"items": "data", "delta": 0, "totalDelta": 0}), "totalDelta.*above 0"),
    (
        job,
        "spec.evaluation.suites",
        suites({"items": "data", "totalDelta": 0.1, "metric": {"type": "judge", "judge": JUDGE}}),
        r"totalDelta.*a judge compares with the stable version only",
    ),
    (
        job,
        "spec.evaluation.suites",
        suites(*({"name": f"old{n}", "items": "data", "totalDelta": 0.1} for n in range(9))),
        "spec.evaluation.suites.*at most 8 suites",
    ),
    (job, "spec.evaluation.anchor", "v1", "spec.evaluation.anchor.*needs a suite with totalDelta"),
    (job, "spec.evaluation.suites", suites({"items": "data", "topP": 0.9}), r"topP.*needs a temperature above 0"),
    (job, "spec.evaluation.suites", suites({"items": "data", "seed": 1}), r"seed.*needs a temperature above 0"),
    (job, "spec.evaluation.suites", suites({"items": "data", "stop": [""]}), r"suites\[0\].stop\[0\]"),
    (
        job,
        "spec.podOverrides.labels",
        {"driftloop.dev/stage": "serve"},
        "spec.podOverrides.labels.*reserved for the operator",
    ),
    (job, "spec.podOverrides.labels", {"team": "no spaces"}, "spec.podOverrides.labels.team"),
    (job, AFFINITY, required(operator="In"), "values.*operator In, NotIn, Gt or Lt needs values"),
    (service, AFFINITY, required(operator="Exists", values=["x"]), "values.*Exists or DoesNotExist has none"),
    (job, AFFINITY, required(key="no spaces", operator="Exists"), r"matchExpressions\[0\].key"),
    (service, "spec.podOverrides.topologySpreadConstraints", [SPREAD, SPREAD], "Duplicate value"),
    (service, "spec.podOverrides.topologySpreadConstraints", [SPREAD | {"maxSkew": 0}], "maxSkew"),
    (job, "spec.suspend", "yes", "spec.suspend.*boolean"),
    (job, "spec.resumeFrom", "No_Name", "spec.resumeFrom"),
    (service, f"{TEMPLATE}.resumeFrom", "first", "a retraining starts from a version: remove resumeFrom"),
    (
        service,
        "spec.modelCache",
        {"storage": "s3://b/c", "maxSize": "1Gi"},
        "modelCache.storage.*copies are on a claim",
    ),
    (version, "spec.artefact.digest", GONE, "spec.artefact.digest: Required"),
    (version, "spec.artefact.digest", "md5:0", "spec.artefact.digest"),
    (version, "spec.lineage.trigger", {"kind": "Whim"}, "spec.lineage.trigger.kind.*Drift"),
    (version, "spec.evaluation.suites", suites({"uri": "s3://b/i.csv", "delta": 2}), r"suites\[0\].delta"),
    (service, "spec.model.family", GONE, "spec.model.family: Required"),
    (service, "spec.model.family", "other", r"retraining.jobTemplate.spec.output.family.*must be model.family"),
    (service, "spec.engine", {"type": "custom"}, "spec.engine.image.*custom needs an image"),
    (service, "spec.engine", {"command": ["/serve"]}, "spec.engine.type.*command and readinessPath need"),
    (service, "spec.engine", CUSTOM | {"maxModelLen": 512}, "spec.engine.args.*only by its own arguments"),
    (
        service,
        "spec.engine",
        CUSTOM | {"args": ["--port=$(DRIFTLOOP_PROT)"]},
        "spec.engine.args.*has only the variables",
    ),
    (service, "spec.engine", CUSTOM | {"command": ["$(DRIFTLOOP_X)"]}, "spec.engine.command.*has only the variables"),
    (service, "spec.engine", CUSTOM | {"readinessPath": "health"}, "spec.engine.readinessPath"),
    (service, "spec.engine.chatTemplate", "", "spec.engine.chatTemplate"),
    (service, "spec.engine.chatTemplateKwargs", "enable_thinking", "spec.engine.chatTemplateKwargs.*object"),
    (job, "spec.evaluation.reasoningTags", ["<think>"], "spec.evaluation.reasoningTags.*a start and an end"),
    (service, "spec.engine.type", "sglang", "spec.engine.type.*vllm"),
    (service, "spec.engine", {"type": "transformers", "gpus": 2}, "spec.engine.gpus.*above 1 needs engine.type vllm"),
    (
        service,
        "spec.engine",
        {"parallelism": {"tensor": 2}, "gpus": 4},
        "times engine.nodes must be parallelism.tensor x",
    ),
    (
        service,
        "spec.engine",
        {"type": "transformers", "parallelism": {"tensor": 1}},
        "spec.engine.parallelism.*needs engine.type vllm",
    ),
    *(
        (
            service,
            "spec.engine",
            {"type": "vllm", "parallelism": {"pipeline": 2}, "args": [argument]},
            "spec.engine.args.*engine.parallelism sets --tensor",
        )
        for argument in ("--tensor-parallel-size=2", "--pipeline_parallel", "-tp", "-pp=2")
    ),
    (
        service,
        "spec.engine",
        {"type": "transformers", "adapters": {}},
        "spec.engine.adapters.*needs engine.type vllm: remove it, and adapters are merged",
    ),
    (service, "spec.engine", CUSTOM | {"adapters": {}}, "spec.engine.adapters.*needs engine.type vllm"),
    (
        service,
        "spec.engine",
        {"type": "vllm", "nodes": 2, "adapters": {}},
        "spec.engine.adapters.*not supported with engine.nodes above 1",
    ),
    (service, "spec.engine", {"type": "vllm", "adapters": {"maxRank": 12}}, "spec.engine.adapters.maxRank.*12"),
    *(
        (service, "spec.engine", {"type": "vllm", "adapters": {}, "args": [argument]}, "spec.engine.args.*--max-lora")
        for argument in ("--enable-lora", "--lora_modules", "--max-loras=4", "--max-cpu")
    ),
    (service, "spec.engine.nodes", 0, "spec.engine.nodes.*greater than or equal to 1"),
    (service, "spec.engine", {"type": "transformers", "nodes": 2}, "spec.engine.nodes.*above 1 needs engine.type vllm"),
    (service, "spec.engine", CUSTOM | {"nodes": 2}, "spec.engine.nodes.*above 1 needs engine.type vllm"),
    (
        service,
        "spec.engine",
        {"gpus": 4, "nodes": 2, "parallelism": {"tensor": 4}},
        "spec.engine.gpus.*times engine.nodes must be parallelism.tensor x",
    ),
    (
        service,
        "spec.engine",
        {"type": "vllm", "nodes": 2, "parallelism": {"pipeline": 3}},
        "spec.engine.nodes.*must divide parallelism.tensor x",
    ),
    *(
        (
            service,
            "spec.engine",
            {"type": "vllm", "nodes": 2, "args": [argument]},
            "spec.engine.args.*engine.nodes sets -n, -r",
        )
        for argument in ("-n=3", "-r", "--distributed_executor_backend=ray", "--distributed-exec")
    ),
    (service, "spec.engine.args", ["--nnodes", "2"], "spec.engine.args.*the operator sets"),
    (service, "spec.engine.args", ["--headless"], "spec.engine.args.*the operator sets"),
    (service, "spec.engine", {"image": "my/server", "gpus": 2}, "spec.engine.gpus.*above 1 needs engine.type vllm"),
    (service, "spec.engine.args", ["--max-loras=2", "--model=other"], "spec.engine.args.*the operator sets"),
    (service, "spec.engine.args", ["--trust_remote_code"], "spec.engine.args.*--trust-remote-code"),
    (service, "spec.engine.args", ["--trust_rem"], "spec.engine.args.*abbreviations"),
    (service, "spec.engine.args", ["--mod=/other"], "spec.engine.args.*abbreviations"),
    (
        service,
        "spec.engine.env",
        [{"name": "DRIFTLOOP_TASK", "value": "x"}],
        r"spec.engine.env\[0\].name.*the operator sets",
    ),
    (service, "spec.engine.env", [{"name": "TOKEN"}], r"spec.engine.env\[0\].*exactly one of value, secretKeyRef"),
    (service, "spec.engine.env", [{"name": "A-B", "value": "x"}], r"spec.engine.env\[0\].name"),
    (service, "spec.acceptance.suites", [{}], r"spec.acceptance.suites\[0\].kind: Required"),
    (service, "spec.acceptance.suites", [{"kind": "api"}], r"spec.acceptance.suites\[0\].kind.*floor"),
    (service, "spec.acceptance.suites", [FLOOR | {"maxDelta": 0.1}], r"suites\[0\].maxDelta.*is for kind retention"),
    (service, "spec.acceptance.suites", [FLOOR | {"minGain": 0.1}], r"suites\[0\].minGain.*is for kind target"),
    (
        service,
        "spec.acceptance.suites",
        [{"kind": "retention", "minimum": 0.1}],
        r"suites\[0\].minimum.*is for kind floor",
    ),
    (service, "spec.acceptance.suites", [FLOOR | {"minimum": 2}], r"spec.acceptance.suites\[0\].minimum"),
    (service, "spec.acceptance.suites", [FLOOR | {"minItems": 0}], r"spec.acceptance.suites\[0\].minItems"),
    (service, "spec.acceptance.suites", [FLOOR | {"onlyBesideStable": True}], "remove onlyBesideStable"),
    (service, "spec.acceptance.suites", [FLOOR, FLOOR], "spec.acceptance.suites.*at most one entry of each kind"),
    (
        service,
        "spec.acceptance.suites",
        [FLOOR | {"name": "a"}, {"kind": "target", "name": "a"}],
        "spec.acceptance.suites.*must be unique",
    ),
    (service, "spec.acceptance.suites", [FLOOR] * 17, "spec.acceptance.suites.*16"),
    (service, "spec.promotion", "sometimes", "spec.promotion.*manual"),
    (service, "spec.acceptance.maxAgeSeconds", 1, "spec.acceptance.maxAgeSeconds"),
    (service, "spec.replicas", -1, "spec.replicas"),
    (service, "spec.drainSeconds", 0, "spec.drainSeconds"),
    (service, "spec.canary.minRequests", 0, "spec.canary.minRequests"),
    (service, "spec.canary.maxLatencyRatio", 0.5, "spec.canary.maxLatencyRatio"),
    (service, "spec.feedback", {}, "spec.feedback.storage: Required"),
    (service, "spec.drift.topics", True, "spec.drift.topics.*set feedback, or remove drift.topics"),
    (service, f"{TEMPLATE}.data.feedback", {"service": "support"}, "spec.feedback.*set spec.feedback.storage"),
    (service, "spec.apiKeys", {"name": "Desk"}, "spec.apiKeys.name"),
    (service, "spec.apiKeys", {}, "spec.apiKeys.name.*Required"),
    (service, "spec.tls", {"secretName": "Desk"}, "spec.tls.secretName"),
    (service, "spec.tls", {}, "spec.tls.secretName.*Required"),
    (service, "spec.scaleToZero", {"idleSeconds": 1}, "spec.scaleToZero.idleSeconds"),
    (service, "spec.scaleToZero", {"holdSeconds": 0}, "spec.scaleToZero.holdSeconds"),
    (sleeping, "spec.replicas", 0, "spec.replicas.*while the service is awake: set at least 1"),
    (sleeping, "spec.tls", {"secretName": "desk"}, "spec.scaleToZero.*the door speaks HTTP: remove tls"),
    (service, "spec.gateway", {}, "spec.gateway.name: Required"),
    (service, "spec.gateway", {"name": "g", "namespace": "edge"}, "spec.gateway.hostnames.*is shared: set hostnames"),
    (service, "spec.gateway", {"name": "g", "hostnames": ["10.0.0.1:80"]}, r"spec.gateway.hostnames\[0\]"),
    (gated, "spec.tls", {"secretName": "desk-tls"}, "spec.tls.*certificate on the Gateway's listener"),
    (service, "spec.canary.steps", steps(1), "spec.canary.steps.*weights need a Gateway"),
    (gated, "spec.canary.steps", [], "spec.canary.steps.*at least 1 items"),
    (gated, "spec.canary.steps", steps(10, 1), "spec.canary.steps.*must be above that of the step before"),
    (gated, "spec.canary.steps", steps(10, 10), r"spec.canary.steps\[1\]: Duplicate"),
    (gated, "spec.canary.steps", steps(100), r"spec.canary.steps\[0\].weight"),
    (service, "spec.allowedOrigins", ["chat.example.org"], r"spec.allowedOrigins\[0\]"),
    (service, "spec.allowedOrigins", ["https://Chat.example.org"], r"spec.allowedOrigins\[0\]"),
    (service, "spec.allowedOrigins", ["https://chat.example.org/"], r"spec.allowedOrigins\[0\]"),
    (service, "spec.allowedOrigins", ["https://chat.example.org:443"], r"allowedOrigins\[0\].*leave out the port"),
    (service, "spec.allowedOrigins", ["*"] * 65, "spec.allowedOrigins.*64"),
    (service, "spec.drift.falseAlarmsPerMonth", 2, "spec.drift.falseAlarmsPerMonth"),
    (service, "spec.drift.baselineRequests", 10, "spec.drift.baselineRequests"),
    (service, "spec.retraining.approval", "sometimes", "spec.retraining.approval.*manual"),
    (service, "spec.retraining.triggers", [{}], r"spec.retraining.triggers\[0\].alertname: Required"),
    (service, "spec.retraining.jobTemplate", GONE, "spec.retraining.jobTemplate: Required"),
    (service, f"{TEMPLATE}.compute.nodes", 0, f"{TEMPLATE}.compute.nodes"),
    (service, f"{TEMPLATE}.training", {"method": "dpo", "packing": True}, f"{TEMPLATE}.training.packing.*not packed"),
    (service, f"{TEMPLATE}.data", {}, f"{TEMPLATE}.data.sources.*at least one source"),
]


@pytest.mark.parametrize(("make", "path", "value", "message"), WRONG, ids=label)
def test_a_wrong_object_is_refused_with_a_message_that_names_the_field(
    plane: ControlPlane, make: Callable[[], Obj], path: str, value: Any, message: str
) -> None:
    body = make()
    put(path, value)(body)
    with pytest.raises(Error) as caught:
        plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body))
    assert re.search(message, str(caught.value)), caught.value


@pytest.mark.parametrize(
    "make", [job, gpus, pretraining, preferring, labelled, version, service, gated, sleeping], ids=label
)
def test_the_server_fills_in_what_pydantic_would(plane: ControlPlane, make: Callable[[], Obj]) -> None:
    body = make()
    answer = plane.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(body))
    kind = {each.KIND: each for each in KINDS}[body["kind"]]
    assert json.loads(answer)["spec"] == kind.model_validate(body).dump()["spec"]


# Values as in real clusters: integers from YAML, exponents, and the names of other objects.
RIGHT: list[tuple[str, Any]] = [
    ("spec.compute.resources", {"requests": {"cpu": 4, "memory": "1e9"}, "limits": {"nvidia.com/gpu": 1}}),
    ("spec.compute.gpuMemory", 85_899_345_920),
    ("spec.compute.gpuMemory", "141Gi"),
    ("spec.compute.queueName", "team-a.research-queue-with-a-name-of-45-characters"),
    ("spec.podOverrides.imagePullSecrets", [{"name": "regcred.my-company.com"}]),
    ("spec.podOverrides.storageSecret", {"name": "s3-credentials-of-the-machine-learning-platform"}),
    ("spec.training.bf16", True),
]


@pytest.mark.parametrize(("path", "value"), RIGHT, ids=label)
def test_what_the_core_api_takes_is_taken(plane: ControlPlane, path: str, value: Any) -> None:
    body = job()
    put(path, value)(body)
    plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body))


FROZEN: list[tuple[Callable[[str], Obj], str, Any, str]] = [
    (job, f"{FROM}.uri", "pvc://models/other", "spec.model.*immutable"),
    (job, "spec.data.heldOutPercent", 20, "spec.data.*immutable"),
    (job, "spec.data.sources", sources("rows", "more"), "spec.data.*immutable"),
    (job, "spec.training", {"seed": 1}, "spec.training.*immutable"),
    (job, "spec.compute", {"nodes": 2}, "spec.compute.*immutable"),
    (job, "spec.storage", "pvc://models/elsewhere", "spec.storage.*immutable"),
    (job, "spec.evaluation", {"suites": suites({"items": "data"})}, "spec.evaluation.*immutable"),
    (job, "spec.output.family", "sales", "spec.output.*immutable"),
    (job, "spec.podOverrides", {"labels": {"team": "a"}}, "spec.podOverrides.*immutable"),
    (version, "spec.artefact.uri", "pvc://models/v2", "spec.*immutable"),
    (version, "spec.lineage", {"job": "tune"}, "spec.*immutable"),
]


@pytest.mark.parametrize(("make", "path", "value", "message"), FROZEN, ids=label)
def test_what_is_immutable_is_refused_by_its_name(
    plane: ControlPlane, make: Callable[[str], Obj], path: str, value: Any, message: str
) -> None:
    body = make("frozen")
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    changed = deepcopy(body)
    put(path, value)(changed)
    with pytest.raises(Error, match=message):
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(changed))


def test_a_free_form_architecture_is_immutable_too(plane: ControlPlane) -> None:
    body = pretraining()
    body["metadata"]["name"] = "free-form"
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    put(f"{FROM}.config.architecture.hidden_size", 64)(body)
    with pytest.raises(Error, match=r"spec.model.*immutable"):
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))


def test_a_job_can_be_suspended_and_resumed(plane: ControlPlane) -> None:
    body = job("pausing")
    for suspend in (False, True, False):
        put("spec.suspend", suspend)(body)
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
        assert plane.kubectl("get", "ftj", "pausing", "-o", "jsonpath={.spec.suspend}") == str(suspend).lower()


def test_a_services_job_template_may_change(plane: ControlPlane) -> None:
    body = service("changing")
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    put(f"{TEMPLATE}.training", {"seed": 1})(body)
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    assert plane.kubectl("get", "dlsvc", "changing", "-o", f"jsonpath={{.{TEMPLATE}.training.seed}}") == "1"


@pytest.mark.parametrize("name", ["ftj", "mver", "mv", "dlsvc"])
def test_kubectl_knows_every_short_name(plane: ControlPlane, name: str) -> None:
    plane.kubectl("get", name)


def test_spec_and_status_are_written_apart(plane: ControlPlane) -> None:
    body = version("status-test") | {"status": {"phase": "Approved"}}
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    assert plane.kubectl("get", "mver", "status-test", "-o", "jsonpath={.status}") == ""
    patch = json.dumps({"status": {"phase": "Approved", "gateSummary": "4 of 4 passed"}, "spec": {"family": "other"}})
    plane.kubectl("patch", "mver", "status-test", "--subresource=status", "--type=merge", "-p", patch)
    found = json.loads(plane.kubectl("get", "mver", "status-test", "-o", "json"))
    assert found["spec"]["family"] == "support"
    assert found["status"] == {"phase": "Approved", "gateSummary": "4 of 4 passed"}


def test_alerts_of_two_writers_are_merged_by_key(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(service("merging")))
    for manager, key in (("alerts", "a/1"), ("other", "b/2")):
        alert = {
            "key": key,
            "alertname": "DriftloopModelDrift",
            "started": "2026-01-01T00:00:00Z",
            "received": "2026-01-01T00:00:01Z",
            "source": "Webhook",
        }
        body = service("merging") | {"status": {"alerts": [alert]}}
        del body["spec"]
        apply = ("apply", "--server-side", "--subresource=status", f"--field-manager={manager}", "-f", "-")
        plane.kubectl(*apply, stdin=json.dumps(body))
    assert plane.kubectl("get", "dlsvc", "merging", "-o", "jsonpath={.status.alerts[*].key}") == "a/1 b/2"


def test_an_autoscaler_can_scale_a_service(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(service("scaled")))
    plane.kubectl("scale", "inferenceservices.driftloop.dev/scaled", "--replicas=3")
    assert plane.kubectl("get", "dlsvc", "scaled", "-o", "jsonpath={.spec.replicas}") == "3"


def test_an_autoscaler_of_a_service_that_sleeps_keeps_a_pod(plane: ControlPlane) -> None:
    body = sleeping()
    body["metadata"]["name"] = "sleeps"
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    plane.kubectl("scale", "inferenceservices.driftloop.dev/sleeps", "--replicas=2")
    with pytest.raises(Error, match="minReplicaCount"):
        plane.kubectl("scale", "inferenceservices.driftloop.dev/sleeps", "--replicas=0")


def test_the_columns_tell_the_story(plane: ControlPlane) -> None:
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(job("columns")))
    progress = {"step": 21, "totalSteps": 50, "percent": 42, "eta": "1h05m", "loss": "1.93"}
    patch = json.dumps({"status": {"phase": "Training", "progress": progress}})
    plane.kubectl("patch", "ftj", "columns", "--subresource=status", "--type=merge", "-p", patch)
    head, line = plane.kubectl("get", "ftj", "columns").splitlines()
    assert head.split() == ["NAME", "PHASE", "PROGRESS", "ETA", "LOSS", "NODES", "MESH", "VERSION", "AGE"]
    assert line.split()[:6] == ["columns", "Training", "42", "1h05m", "1.93", "1"]
    assert "finetunejob.driftloop.dev/columns" in plane.kubectl("get", "driftloop", "-o", "name")
