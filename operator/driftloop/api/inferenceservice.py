"""InferenceService: serves a family's best version, watches it, and has it retrained."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from driftloop.api.base import (
    AnnotationValue,
    ApiModel,
    Condition,
    Digest,
    Family,
    Fraction,
    LabelValue,
    Name,
    Origin,
    PodOverrides,
    Rule,
    StorageUri,
    Text,
    Timestamp,
    cel,
    rule,
)
from driftloop.api.engine import Engine
from driftloop.api.finetunejob import FineTuneJobSpec

ServicePhase = Literal["Pending", "Deploying", "Serving", "Canary", "Paused", "Degraded"]
RetrainingState = Literal["Idle", "Waiting", "AwaitingApproval", "Running", "Cooldown", "Blocked"]
# Unavailable: cluster, storage or Ray failed it, which says nothing of model and data.
RetrainingEnding = Literal["InFlight", "Rejected", "Unavailable", "Promoted", "Superseded"]
RetrainingTriggerKind = Literal["Drift", "Alert", "MaxAge"]
AnalysisVerdict = Literal["Running", "Paused", "Promote", "RollBack"]
Health = Literal["Good", "Bad", "Unknown"]
AlertSource = Literal["Webhook", "Poll"]


class ServedModel(ApiModel):
    """Which version is served."""

    family: Family = Field(description="The last Approved version of this family is rolled out.")
    version: Name | None = Field(None, description="Pin: serve this ModelVersion and no other.")


class Canary(ApiModel):
    """How a new revision is tried."""

    min_requests: int = Field(
        50,
        ge=1,
        le=10_000_000,
        description="Requests that each arm must have had before a verdict. It takes more to show that a candidate is "
        "no worse: without a failure some 400 an arm at a margin of 0.01, 80 at 0.05; with failures on both arms many "
        "times that. status.analysis.message says about how many are missing.",
    )
    min_seconds: int = Field(30, ge=0, le=604_800, description="The shortest analysis.")
    max_seconds: int = Field(
        3600,
        ge=10,
        le=2_592_000,
        description="Without a verdict by then the rollout pauses: it is looked at each minute, and goes on when the "
        "requests have come.",
    )
    max_error_rate_increase: Fraction = Field(
        0.01,
        description="The margin. Failed are requests that end with 5xx or 429. Promoted is a candidate of whose "
        "requests, at 95 %, at most this share more fail than of stable's; rolled back one of whose requests more "
        "than this must fail, be refused with another 4xx, or be given up by the client.",
    )
    max_latency_ratio: float = Field(
        1.5,
        ge=1,
        le=100,
        description="p95 latency against stable's, of an answer, and of an output token where answers have 16 or more: "
        "above it nothing is promoted, and the candidate is rolled back when that is no chance, at 95 %.",
    )
    max_negative_feedback_increase: Fraction = Field(
        0.1,
        description="The same margin for negative feedback, as soon as each arm has 20 ratings. It takes some hundred "
        "ratings per arm; 1 does not compare them.",
    )
    progress_deadline_seconds: int = Field(
        600, ge=30, le=86_400, description="Seconds within which the candidate's pods must be Ready."
    )


class FeedbackSpec(ApiModel):
    """Where users' corrections are stored. They arrive on a port of their own, with a token of their own."""

    storage: StorageUri = Field(description="Folder for the corrections.")
    retention_days: int = Field(90, ge=1, le=3650, description="Days after which corrections are no longer used.")
    max_per_user_per_hour: int = Field(
        600, ge=1, le=1_000_000, description="Ratings per user and hour; more are refused."
    )


class Drift(ApiModel):
    """How drift is watched."""

    enabled: bool = Field(True, description="Watch this service.")
    false_alarms_per_month: Fraction = Field(
        0.01,
        description="The budget: chance of a false alarm in 72,000 requests, if they come independently, however long "
        "they take: 30 days at 1.7 requests per minute, 20 hours at 1 a second, 40 minutes at 30 a second. Bursts of "
        "like requests, hours of the day and users who send much and unlike the others cost far more: see the README.",
    )
    tolerance: Fraction = Field(
        0.02,
        description="The change that is no drift yet: of the share of bad ratings, or of the share of requests on one "
        "side of a signal's median. 0.02 is a shift of 0.05 standard deviations.",
    )
    baseline_requests: int = Field(
        300,
        ge=50,
        le=1_000_000,
        description="Number of first requests of a promoted version: they define what is normal.",
    )
    baseline_minimum_hours: float = Field(
        24,
        ge=0,
        le=8760,
        description="And those of its first hours, also parts of one: a day has each of its hours in it. Till then "
        "only mostly bad ratings raise an alarm. 0: as soon as there are baselineRequests.",
    )


class RetrainingTrigger(ApiModel):
    """An alert of another system that starts retraining too."""

    alertname: Text = Field(description="Value of the label alertname.")
    labels: dict[str, Text] = Field(default={}, max_length=16, description="Further labels that the alert must have.")


class JobTemplateMetadata(ApiModel):
    """Labels and annotations of the job."""

    labels: dict[str, LabelValue] = Field(default={}, max_length=32, description="Labels of the job.")
    annotations: dict[str, AnnotationValue] = Field(default={}, max_length=32, description="Annotations of the job.")


class JobTemplate(ApiModel):
    """The FineTuneJob to create."""

    metadata: JobTemplateMetadata = Field(default=JobTemplateMetadata(), description="Labels and annotations.")
    spec: FineTuneJobSpec = Field(description="Its spec.")


class Retraining(ApiModel):
    """When a new version is trained."""

    approval: Literal["manual", "automatic"] = Field(
        "manual",
        description="manual: the annotation driftloop.dev/approve-retraining with the proposal's name starts it.",
    )
    triggers: list[RetrainingTrigger] = Field(
        default=[], max_length=32, description="Alerts of other systems that start retraining too."
    )
    max_age_seconds: int | None = Field(None, ge=60, le=315_360_000, description="Retrain a version as old as this.")
    cooldown_seconds: int = Field(
        3600, ge=0, le=31_536_000, description="Rest between two retrainings; a rejection doubles it."
    )
    min_samples: int = Field(
        500, ge=1, le=100_000_000, description="Eligible corrections since the change that are needed."
    )
    max_rejections: int = Field(
        3, ge=1, le=100, description="Rejected candidates in a row after which retraining stops."
    )
    max_jobs_per_day: int = Field(4, ge=1, le=1000, description="Jobs per day, at most.")
    job_template: JobTemplate = Field(
        description="The FineTuneJob to create. An alarm of drift is answered only by a version that shows a gain on a "
        "target suite: give it one, of items: feedback."
    )


class InferenceServiceSpec(ApiModel):
    """Desired service."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "!has(self.retraining) || self.retraining.jobTemplate.spec.output.family == self.model.family",
                "retraining.jobTemplate.spec.output.family must be model.family",
                ".retraining.jobTemplate.spec.output.family",
            ),
        )
    )
    model: ServedModel = Field(description="Which version is served.")
    engine: Engine = Field(default=Engine(), description="What runs the model.")
    replicas: int = Field(1, ge=0, le=1000, description="Pods of the service.")
    drain_seconds: int = Field(30, ge=1, le=3600, description="How long a stopping pod may finish its streams.")
    request_timeout_seconds: int = Field(
        3600,
        ge=1,
        le=86_400,
        description="How long a request may take, its whole answer included, streamed or not; then it fails with 504.",
    )
    allowed_origins: list[Origin] = Field(
        default=[],
        max_length=64,
        description="Origins of the web pages that may call the API from a browser (CORS), like "
        "https://chat.example.org; * is any. Other clients need none. Without one browsers refuse.",
    )
    canary: Canary = Field(default=Canary(), description="How a new revision is tried.")
    feedback: FeedbackSpec | None = Field(None, description="Take users' corrections.")
    drift: Drift = Field(default=Drift(), description="How drift is watched.")
    retraining: Retraining | None = Field(None, description="When a new version is trained.")
    pod_overrides: PodOverrides = Field(default=PodOverrides(), description="What a platform sets on the pods.")


class RevisionStatus(ApiModel):
    """One revision: a version with its engine, images and settings."""

    revision: str = Field(max_length=63, description="Hash of all that makes the pods what they are.")
    version: Name = Field(description="The ModelVersion.")
    digest: Digest | None = Field(None, description="Its artefact's digest.")
    replicas: int = Field(0, description="Pods wanted.")
    ready_replicas: int = Field(0, description="Pods ready.")
    since: Timestamp | None = Field(None, description="When it took this role.")


class Analysis(ApiModel):
    """The two arms of a canary, at the same time."""

    started: Timestamp | None = Field(None, description="When both arms were ready.")
    looked: Timestamp | None = Field(None, description="When their figures were read last.")
    stable_requests: int = Field(0, description="Requests of the stable arm since then.")
    candidate_requests: int = Field(0, description="Requests of the candidate arm since then.")
    stable_error_rate: str | None = Field(None, max_length=16, description="Share of failed requests.")
    candidate_error_rate: str | None = Field(None, max_length=16, description="Share of failed requests.")
    stable_latency: str | None = Field(None, max_length=16, description="p95 in seconds.")
    candidate_latency: str | None = Field(None, max_length=16, description="p95 in seconds.")
    stable_token_latency: str | None = Field(None, max_length=16, description="p95 in seconds per output token.")
    candidate_token_latency: str | None = Field(None, max_length=16, description="p95 in seconds per output token.")
    stable_negative_feedback: str | None = Field(None, max_length=16, description="Share of negative feedback.")
    candidate_negative_feedback: str | None = Field(None, max_length=16, description="Share of negative feedback.")
    verdict: AnalysisVerdict | None = Field(None, description="What was decided.")
    message: str | None = Field(None, max_length=1024, description="Why.")


class ReferenceSignal(ApiModel):
    """What is normal for one signal."""

    signal: str = Field(max_length=32, description="Name of the signal.")
    counts: list[int] = Field(max_length=32, description="Requests per bin, in the order of the bins.")


class DriftStatus(ApiModel):
    """The detector's state. One write holds evidence and the time up to which counters were consumed."""

    version: Name | None = Field(None, description="The version this evidence is about.")
    since: Timestamp | None = Field(None, description="When the version's baseline began.")
    consumed_until: Timestamp | None = Field(None, description="Counters were read up to here.")
    requests: int = Field(0, description="Requests judged since the baseline.")
    evidence: dict[str, str] = Field(
        default={}, max_length=16, description="Detector state per signal, as decimal strings."
    )
    log_evidence: str | None = Field(None, max_length=16, description="Combined evidence, natural logarithm.")
    threshold: str | None = Field(None, max_length=16, description="The alarm is raised above this value.")
    baseline: list[ReferenceSignal] = Field(
        default=[], max_length=16, description="What the first requests looked like."
    )
    health: Health | None = Field(
        None, description="Whether the baseline's ratings are mostly good. Unknown: it has fewer than ten."
    )
    training_distance: dict[str, str] = Field(
        default={},
        max_length=16,
        description="How far the baseline is from the training data, per text signal: the mean score in standard "
        "deviations, as a decimal string. It starts nothing.",
    )
    first_baseline: list[ReferenceSignal] = Field(
        default=[], max_length=16, description="The first baseline ever, for the long view."
    )
    alarm: bool = Field(False, description="Whether the evidence is above the threshold.")
    last_alarm: Timestamp | None = Field(
        None,
        description="When the evidence last was above the threshold; an alert of drift counts only near it.",
    )
    held_from: Name | None = Field(
        None,
        description="The version under which the alarm rose, where another one serves now that has shown no gain on a "
        "target suite: the alarm stands until one has.",
    )
    change_point: Timestamp | None = Field(None, description="When the change began, as estimated.")
    message: str | None = Field(None, max_length=512, description="What drifted.")


class AlertRecord(ApiModel):
    """An alert that a replica of the operator recorded. Written by a field manager of its own."""

    key: str = Field(max_length=128, description="Fingerprint and start of the alert.")
    alertname: Text = Field(description="Its name.")
    started: Timestamp = Field(description="When it began to fire.")
    received: Timestamp = Field(description="When it was recorded.")
    source: AlertSource = Field(description="How it was received.")


class RetrainingStatus(ApiModel):
    """The state of retraining."""

    state: RetrainingState | None = Field(None, description="What retraining is doing.")
    message: str | None = Field(
        None, max_length=512, description="The state in a sentence, such as Waiting: 212/500 samples."
    )
    trigger: RetrainingTriggerKind | None = Field(None, description="What asks for it.")
    alert_key: str | None = Field(None, max_length=128, description="The alert that asks for it.")
    since: Timestamp | None = Field(None, description="When it was first asked for.")
    samples: int = Field(0, description="Eligible corrections since the change.")
    samples_needed: int = Field(0, description="Corrections that are needed.")
    proposal: Name | None = Field(None, description="Name of the job that would be, or was, created.")
    job: Name | None = Field(None, description="The job in flight.")
    version: Name | None = Field(None, description="The stable version that ordinal and rejections are about.")
    last_ending: RetrainingEnding | None = Field(
        None,
        description="What became of the last retraining. Unavailable: the cluster or the storage failed it, and it "
        "counts as no rejection.",
    )
    ordinal: int = Field(0, description="Retrainings started for this stable version.")
    rejections: int = Field(0, description="Rejected candidates in a row.")
    last_finished: Timestamp | None = Field(None, description="When the last retraining ended.")
    handled_alerts: list[Annotated[str, Field(max_length=128)]] = Field(
        default=[], max_length=64, description="Alerts that have led to a job."
    )


class InferenceServiceStatus(ApiModel):
    """The last observed state."""

    observed_generation: int | None = Field(None, description="The generation of the spec that this is about.")
    phase: ServicePhase | None = Field(None, description="What the service is doing.")
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        description="See docs/conditions.md.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    url: Text | None = Field(None, description="Address of the API inside the cluster.")
    stable: RevisionStatus | None = Field(None, description="The revision that serves.")
    candidate: RevisionStatus | None = Field(None, description="The revision that is tried.")
    traffic: str | None = Field(None, max_length=32, description="Percent of requests to stable/candidate.")
    analysis: Analysis | None = Field(None, description="The running or last canary.")
    failed_revisions: list[Annotated[str, Field(max_length=63)]] = Field(
        default=[],
        max_length=32,
        description="Rolled back; not tried again until the annotation driftloop.dev/retry names it.",
    )
    drift: DriftStatus | None = Field(None, description="State of the drift detector.")
    retraining: RetrainingStatus | None = Field(None, description="The state of retraining.")
    alerts: list[AlertRecord] = Field(
        default=[],
        max_length=64,
        description="Alerts recorded.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"]},
    )
    replicas: int = Field(0, description="Pods of the service.")
    selector: str | None = Field(
        None, max_length=256, description="Label selector of the pods, for the scale subresource."
    )


class InferenceService(ApiModel):
    """Serves the best version of a family, and closes the loop."""

    KIND: ClassVar[str] = "InferenceService"
    PLURAL: ClassVar[str] = "inferenceservices"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("dlsvc",)
    COLUMNS: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("Phase", "string", ".status.phase"),
        ("Stable", "string", ".status.stable.version"),
        ("Candidate", "string", ".status.candidate.version"),
        ("Traffic", "string", ".status.traffic"),
        ("Drift", "boolean", ".status.drift.alarm"),
        ("Retraining", "string", ".status.retraining.message"),
        ("URL", "string", ".status.url"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    ROOT_RULES: ClassVar[tuple[Rule, ...]] = (
        rule(
            "!has(self.spec.retraining) || !has(self.spec.retraining.jobTemplate.spec.data.feedback)"
            " || self.spec.retraining.jobTemplate.spec.data.feedback.service != self.metadata.name"
            " || has(self.spec.feedback)",
            "retraining learns from this service's corrections: set spec.feedback.storage, so that it takes some",
            ".spec.feedback",
        ),
    )
    SCALE: ClassVar[tuple[str, str, str]] = (".spec.replicas", ".status.replicas", ".status.selector")
    spec: InferenceServiceSpec = Field(description="Desired service.")
    status: InferenceServiceStatus = Field(default=InferenceServiceStatus(), description="The last observed state.")
