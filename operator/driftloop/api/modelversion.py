"""ModelVersion: one immutable model, where it came from, and what the gates found."""

from typing import ClassVar, Literal

from pydantic import Field

from driftloop.api.base import (
    IMMUTABLE,
    ApiModel,
    Condition,
    Digest,
    Family,
    Name,
    PodOverrides,
    StorageUri,
    SuiteSpec,
    Text,
    Timestamp,
)
from driftloop.api.evaluation import EvaluationSettings


class Artefact(ApiModel):
    """A model folder in storage."""

    uri: StorageUri = Field(description="Folder with config, tokenizer, safetensors and manifest.json.")
    digest: Digest = Field(description="Content digest of the folder; every reader verifies it.")


class Trigger(ApiModel):
    """Why the training was started."""

    kind: Literal["User", "Drift", "Alert", "MaxAge"] = Field(description="What started it.")
    service: Name | None = Field(None, description="The InferenceService that was drifting.")
    alert: Text | None = Field(None, description="The alert that fired.")
    started: Timestamp | None = Field(None, description="When it fired.")


class Lineage(ApiModel):
    """Where the version came from."""

    job: Name | None = Field(None, description="The FineTuneJob.")
    job_uid: str | None = Field(None, max_length=64, description="Its UID: a job re-created under its name is another.")
    parent: Name | None = Field(None, description="The version that training started from.")
    base_digest: Digest | None = Field(None, description="Digest of the model that training started from.")
    data_uri: StorageUri | None = Field(None, description="The prepared rows.")
    data_digest: Digest | None = Field(None, description="Their digest.")
    held_out_salt: Family | None = Field(
        None,
        description="What decides with a row's text whether it is held out: the family of the first version of the "
        "ancestry. If absent, this version's family.",
    )
    held_out_percent: int | None = Field(
        None, ge=0, le=50, description="Share of rows that neither this version nor its ancestors were trained on."
    )
    tokenizer_digest: Digest | None = Field(None, description="Digest of the tokenizer files.")
    trainer_image: Text | None = Field(None, description="Image that trained it.")
    trigger: Trigger = Field(default=Trigger(kind="User"), description="Why the training was started.")


class VersionEvaluation(EvaluationSettings):
    """The gates that it must pass."""

    suites: list[SuiteSpec] = Field(
        default=[],
        max_length=16,
        description="All are required; each gives the `uri` of its items.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    storage: StorageUri | None = Field(None, description="Folder for the evidence; beside the artefact if absent.")


class ModelVersionSpec(ApiModel):
    """What the version is. Immutable."""

    family: Family = Field(description="Versions of a family replace each other.")
    artefact: Artefact = Field(description="The model.")
    lineage: Lineage = Field(default=Lineage(), description="Where it came from.")
    evaluation: VersionEvaluation = Field(default=VersionEvaluation(), description="The gates that it must pass.")
    pod_overrides: PodOverrides = Field(default=PodOverrides(), description="What a platform sets on the pods.")


Verdict = Literal["Pass", "Fail", "Inconclusive", "NotApplicable"]


class Gate(ApiModel):
    """What one gate found. Accuracies and differences are shares in [0, 1], as decimal strings."""

    name: str = Field(max_length=63, description="digest, api, or the suite's name.")
    kind: Literal["digest", "api", "target", "retention", "floor"] = Field(description="What the gate checks.")
    verdict: Verdict = Field(description="Inconclusive is never a pass.")
    message: str = Field(max_length=1024, description="The finding in a sentence, and what would change it.")
    value: str | None = Field(None, max_length=16, description="Accuracy of this version.")
    baseline: str | None = Field(None, max_length=16, description="Accuracy of the stable version on the same items.")
    difference: str | None = Field(None, max_length=16, description="value - baseline, paired.")
    lower: str | None = Field(
        None, max_length=16, description="Lower bound of the one-sided 95 % interval that counts."
    )
    upper: str | None = Field(None, max_length=16, description="Upper bound of the interval.")
    items: int | None = Field(None, description="Items asked (n).")
    items_needed: int | None = Field(None, description="Items that are needed for delta.")
    minimum_detectable_effect: str | None = Field(
        None, max_length=16, description="The smallest loss that n items show with power 0.8."
    )
    delta: str | None = Field(
        None, max_length=16, description="The loss that is accepted, the gain or the minimum that is demanded."
    )
    cut: int | None = Field(None, description="Answers of this version that maxTokens cut short.")
    uses: int | None = Field(
        None, description="Versions that were judged by these very items: the more, the less they prove."
    )


class BaselineStatus(ApiModel):
    """What the version was compared with."""

    version: Name = Field(description="The stable ModelVersion.")
    digest: Digest = Field(description="Its artefact's digest.")
    service: Name = Field(description="The InferenceService that serves it.")


ModelVersionPhase = Literal["Pending", "Evaluating", "Approved", "AwaitingApproval", "Rejected", "Failed"]
JUDGED: tuple[ModelVersionPhase, ...] = ("Approved", "AwaitingApproval", "Rejected", "Failed")  # evaluated


class ModelVersionStatus(ApiModel):
    """The last observed state."""

    observed_generation: int | None = Field(None, description="The generation of the spec that this is about.")
    phase: ModelVersionPhase | None = Field(
        None,
        description="Where the version is. AwaitingApproval: no suite judged it; it may be trained from, and without a "
        "stable version the annotation driftloop.dev/approve with its name lets it serve. Failed: it could not be "
        "judged; another value of the annotation driftloop.dev/retry tries again.",
    )
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        description="See docs/conditions.md.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    gates: list[Gate] = Field(
        default=[],
        max_length=24,
        description="One entry per gate.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    gate_summary: str | None = Field(
        None, max_length=256, description="4 of 4 passed, or the first that failed, else the first that could not tell."
    )
    baseline: BaselineStatus | None = Field(None, description="What it was compared with.")
    engine: str | None = Field(None, max_length=16, description="Hash of the engine that the evidence is about.")
    retried: str | None = Field(
        None, max_length=253, description="The value of driftloop.dev/retry that was followed last."
    )
    evidence: Artefact | None = Field(None, description="Folder with every question and answer.")
    services: list[Name] = Field(default=[], max_length=64, description="InferenceServices that serve it now.")


class ModelVersion(ApiModel):
    """One model of a family, with its lineage and the evidence of its gates."""

    KIND: ClassVar[str] = "ModelVersion"
    PLURAL: ClassVar[str] = "modelversions"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("mver", "mv")
    COLUMNS: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("Family", "string", ".spec.family"),
        ("Phase", "string", ".status.phase"),
        ("Gates", "string", ".status.gateSummary"),
        ("Baseline", "string", ".status.baseline.version"),
        ("Job", "string", ".spec.lineage.job"),
        ("Trigger", "string", ".spec.lineage.trigger.kind"),
        ("Serving", "string", ".status.services[*]"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    spec: ModelVersionSpec = Field(description="What the version is.", json_schema_extra=IMMUTABLE)
    status: ModelVersionStatus = Field(default=ModelVersionStatus(), description="The last observed state.")
