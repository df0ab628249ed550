"""ModelVersion: one immutable model, its lineage, and the results of its gates."""

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
    Text,
    Timestamp,
)
from driftloop.api.evaluation import EvaluationSettings
from driftloop.api.suite import SuiteSpec


class Artefact(ApiModel):
    """A model folder in storage."""

    uri: StorageUri = Field(description="Folder with config, tokenizer, safetensors and manifest.json.")
    digest: Digest = Field(description="Content digest of the folder. Every reader verifies it.")


class ModelArtefact(Artefact):
    """A model folder, or the folder of an adapter and where its base is."""

    bases: list[StorageUri] = Field(
        default=[],
        max_length=4,
        description="For an adapter that is not merged (output.mergeAdapter): the folder of the model that it adds to. "
        "If that is an adapter too, the folder of its base is next, and so on up to a whole model. Pods merge them, "
        "after they have verified that the adapter was trained on them. So they must stay.",
    )


class ModelShape(ApiModel):
    """Sizes of the model, from which the memory for serving it is planned."""

    parameters: int = Field(ge=1, le=10**15, description="Number of parameters.")
    dtype: str = Field(max_length=16, description="Data type of the stored weights, such as bfloat16.")
    layers: int = Field(ge=1, le=10_000, description="Number of decoder layers.")
    attention_heads: int = Field(ge=1, le=100_000, description="Number of attention heads.")
    key_value_heads: int = Field(ge=1, le=100_000, description="Number of heads of keys and values.")
    cache_elements: int = Field(
        ge=1,
        le=10**9,
        description="Number of elements of keys and values that the engine keeps per token, summed over the layers "
        "that keep those of all tokens.",
    )
    context_length: int = Field(ge=1, le=10**9, description="Longest context in tokens.")


class Trigger(ApiModel):
    """Why the training was started."""

    kind: Literal["User", "Drift", "Alert", "MaxAge"] = Field(
        description="Kind of trigger. User: a person created the job."
    )
    service: Name | None = Field(None, description="The InferenceService that requested the training.")
    alert: Text | None = Field(None, description="The alert that fired.")
    started: Timestamp | None = Field(None, description="When the trigger occurred.")


class Lineage(ApiModel):
    """Origin of the version: job, parent, data and held-out rule."""

    job: Name | None = Field(None, description="The FineTuneJob that created the version.")
    job_uid: str | None = Field(
        None, max_length=64, description="UID of the job. A new job with the same name has another UID."
    )
    parent: Name | None = Field(None, description="The version that training started from.")
    base_digest: Digest | None = Field(None, description="Digest of the model that training started from.")
    data_uri: StorageUri | None = Field(None, description="Folder with the prepared rows.")
    data_digest: Digest | None = Field(None, description="Digest of the prepared rows.")
    held_out_salt: Family | None = Field(
        None,
        description="Hashed with a row's text to decide whether the row is held out. It is the family of the first "
        "version of the ancestry. If absent, this version's family.",
    )
    held_out_percent: int | None = Field(
        None, ge=0, le=50, description="Percent of rows that neither this version nor its ancestors were trained on."
    )
    tokenizer_digest: Digest | None = Field(None, description="Digest of the tokenizer files.")
    trainer_image: Text | None = Field(None, description="Trainer image that trained the version.")
    trigger: Trigger = Field(default=Trigger(kind="User"), description="Why the training was started.")


class VersionEvaluation(EvaluationSettings):
    """The gates that the version must pass."""

    suites: list[SuiteSpec] = Field(
        default=[],
        max_length=16,
        description="Suites of the version. The version must pass all of them. Each needs the `uri` of its items.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    storage: StorageUri | None = Field(None, description="Folder for the evidence. If absent, beside the artefact.")


class ModelVersionSpec(ApiModel):
    """Content of the version. Immutable."""

    family: Family = Field(description="Family of the version. Versions of a family replace each other.")
    artefact: ModelArtefact = Field(description="The model folder.")
    lineage: Lineage = Field(default=Lineage(), description="Origin of the version.")
    model: ModelShape | None = Field(
        None,
        description="Sizes of the model. With them an engine with GPUs that can't hold the model is refused before it "
        "takes any. A job writes them, for models with attention of the usual kind.",
    )
    evaluation: VersionEvaluation = Field(
        default=VersionEvaluation(), description="The gates that the version must pass."
    )
    pod_overrides: PodOverrides = Field(
        default=PodOverrides(), description="Settings that a platform adds to the pods."
    )


Verdict = Literal["Pass", "Fail", "Inconclusive", "NotApplicable"]


class AnchorGate(ApiModel):
    """The loss against the anchor, in a suite with totalDelta. All versions since the anchor share one budget."""

    version: Name = Field(description="The ModelVersion that is the anchor.")
    value: str | None = Field(None, max_length=16, description="Accuracy of the anchor on the same items.")
    difference: str | None = Field(
        None, max_length=16, description="Accuracy of this version minus that of the anchor, paired by item."
    )
    lower: str | None = Field(
        None, max_length=16, description="One-sided lower bound of the difference, which the verdict uses."
    )
    total_delta: str = Field(max_length=16, description="The accepted loss of all versions since the anchor.")
    left: str | None = Field(
        None,
        max_length=16,
        description="What certainly remains of totalDelta: totalDelta + lower. A version without anything left does "
        "not pass.",
    )
    items_needed: int | None = Field(None, description="Number of items needed for totalDelta.")
    look: int = Field(description="Number of this comparison with the anchor on the same items.")
    alpha: str = Field(max_length=16, description="Probability with which this look may pass by chance.")


class Gate(ApiModel):
    """Result of one gate. Mean scores and differences are shares in [0, 1], as decimal strings."""

    name: str = Field(max_length=63, description="digest, api, or the name of the suite.")
    kind: Literal["digest", "api", "target", "retention", "floor"] = Field(description="Kind of check.")
    verdict: Verdict = Field(description="Result of the gate. Inconclusive never counts as Pass.")
    message: str = Field(max_length=1024, description="The result in a sentence, and what would change it.")
    metric: str | None = Field(None, max_length=16, description="What the answers were measured by.")
    settings: str | None = Field(
        None,
        max_length=1024,
        description="Settings of the metric and of the answers, as JSON. Long ones are replaced by their SHA-256.",
    )
    value: str | None = Field(None, max_length=16, description="Accuracy of this version: the mean score.")
    baseline: str | None = Field(None, max_length=16, description="Accuracy of the stable version on the same items.")
    difference: str | None = Field(None, max_length=16, description="value - baseline, paired by item.")
    lower: str | None = Field(
        None,
        max_length=16,
        description="One-sided lower bound that the verdict uses. It is too high with a probability of at most "
        "`alpha`.",
    )
    upper: str | None = Field(None, max_length=16, description="The upper bound.")
    items: int | None = Field(None, description="Number of items asked (n).")
    items_needed: int | None = Field(None, description="Number of items needed for delta.")
    minimum_detectable_effect: str | None = Field(
        None, max_length=16, description="Smallest loss that n items can show with power 0.8."
    )
    delta: str | None = Field(
        None, max_length=16, description="The accepted loss, the required gain or the required minimum, by kind."
    )
    cut: int | None = Field(None, description="Number of this version's answers that maxTokens cut.")
    look: int | None = Field(
        None,
        description="Number of this comparison among those with the same stable version on the same items. A new "
        "stable version or other items begin with 1 again.",
    )
    alpha: str | None = Field(
        None,
        max_length=16,
        description="Probability with which this look may pass by chance. All looks together have 0.05, and each "
        "later one a smaller share.",
    )
    next_items_needed: int | None = Field(
        None,
        description="Number of items that the suite needs for the next look. If it has fewer, add items or use others.",
    )
    anchor: AnchorGate | None = Field(
        None,
        description="retention with totalDelta: the comparison with the anchor. The verdict needs both comparisons.",
    )
    uses: int | None = Field(
        None, description="Number of versions that these items have judged, also against other stable versions."
    )


class AnchorStatus(ApiModel):
    """The version from which suites with totalDelta count the loss."""

    version: Name = Field(description="The ModelVersion.")
    digest: Digest = Field(description="Digest of its artefact.")


class StoredAnswers(ApiModel):
    """The answers of the anchor, which later versions use again."""

    key: str = Field(
        max_length=16, description="Hash of the anchor, the engine, the items and the settings of answers."
    )
    uri: StorageUri = Field(description="Folder with the answers.")
    digest: Digest = Field(description="Digest of the folder. It is verified before use.")


class SuitePlan(ApiModel):
    """What a suite's evaluation requires. It is fixed before the evaluation runs."""

    name: str = Field(max_length=63, description="Name of the suite.")
    items: int | None = Field(None, description="Number of independent items; absent if it is not known yet.")
    delta: str | None = Field(
        None, max_length=16, description="The accepted loss, the required gain or the required minimum, by kind."
    )
    look: int = Field(description="Number of this look at the items, as in `gates`.")
    alpha: str = Field(max_length=16, description="Probability with which this look may pass by chance.")
    least_items: int | None = Field(
        None,
        description="Smallest number of independent items with which the gate can pass at this look, for the best "
        "possible answers.",
    )
    planned_items: int | None = Field(
        None,
        description="retention: number of independent items with which an equally good version passes in 80 %, if it "
        "answers a tenth of them differently. Absent for scores between 0 and 1, for which it depends on the answers.",
    )
    enough: Literal["Yes", "Rarely", "No", "Unknown"] | None = Field(
        None,
        description="Whether `items` are enough. Yes: at least `plannedItems`. Rarely: at least `leastItems`, but "
        "fewer than planned. No: not even the best possible answers of an equally good version pass. Unknown: `items` "
        "or `plannedItems` is absent.",
    )
    anchor_look: int | None = Field(
        None, description="Number of this look at the items with the anchor, in a suite with totalDelta."
    )


class EvaluationPlan(ApiModel):
    """The looks of an evaluation, one per suite. They are fixed before it runs."""

    baseline: Digest | None = Field(
        None, description="Digest of the stable version with which the looks compare. If absent, there is none."
    )
    anchor: AnchorStatus | None = Field(
        None, description="The anchor, from which suites with totalDelta count the loss. Later versions inherit it."
    )
    suites: list[SuitePlan] = Field(default=[], max_length=16, description="One entry per suite.")


class BaselineStatus(ApiModel):
    """The version that this one was compared with."""

    version: Name = Field(description="The stable ModelVersion.")
    digest: Digest = Field(description="Digest of the stable version's artefact.")
    service: Name = Field(description="The InferenceService that serves it.")


ModelVersionPhase = Literal["Pending", "Evaluating", "Approved", "AwaitingApproval", "Rejected", "Failed"]
JUDGED: tuple[ModelVersionPhase, ...] = ("Approved", "AwaitingApproval", "Rejected", "Failed")  # evaluation has ended


class ModelVersionStatus(ApiModel):
    """The last observed state."""

    observed_generation: int | None = Field(None, description="Generation of the spec that this status describes.")
    phase: ModelVersionPhase | None = Field(
        None,
        description="The version's current phase. AwaitingApproval: no suite judged it. Jobs may train from it. If "
        "there is no stable version, the service serves it once the annotation driftloop.dev/approve names it. Failed: "
        "it could not be judged. A new value of the annotation driftloop.dev/retry tries again.",
    )
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        description="Conditions of the version. See docs/conditions.md.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    plan: EvaluationPlan | None = Field(None, description="What the evaluation requires. It is written before it runs.")
    gates: list[Gate] = Field(
        default=[],
        max_length=24,
        description="One entry per gate.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    gate_summary: str | None = Field(
        None,
        max_length=256,
        description="Summary, such as 4 of 4 passed, or the first failed gate, or else the first inconclusive one.",
    )
    baseline: BaselineStatus | None = Field(None, description="The version that this one was compared with.")
    anchor_answers: StoredAnswers | None = Field(
        None,
        description="The answers of the anchor. A later version with the same anchor, engine, items and settings does "
        "not ask the anchor again.",
    )
    engine: str | None = Field(None, max_length=16, description="Hash of the engine that produced the evidence.")
    evaluated: Timestamp | None = Field(
        None, description="When the evaluation that produced the evidence ended. Absent in older versions."
    )
    retried: str | None = Field(
        None, max_length=253, description="The last value of driftloop.dev/retry that was acted on."
    )
    evidence: Artefact | None = Field(None, description="Folder with all questions and answers.")
    services: list[Name] = Field(default=[], max_length=64, description="InferenceServices that serve it now.")


class ModelVersion(ApiModel):
    """One model of a family, with its lineage and the results of its gates."""

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
    spec: ModelVersionSpec = Field(description="Content of the version.", json_schema_extra=IMMUTABLE)
    status: ModelVersionStatus = Field(default=ModelVersionStatus(), description="The last observed state.")
