"""InferenceService: serves the best version of a family, watches for drift, and starts retraining."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from driftloop.api.acceptance import Acceptance
from driftloop.api.base import (
    AnnotationValue,
    ApiModel,
    Condition,
    Digest,
    Family,
    ForeignRef,
    Fraction,
    LabelValue,
    Name,
    Origin,
    PodOverrides,
    Quantity,
    Rule,
    StorageUri,
    SubdomainName,
    Text,
    Timestamp,
    cel,
    rule,
)
from driftloop.api.engine import Engine
from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.api.gateway import CanaryStep, GatewayRef

ServicePhase = Literal["Pending", "Deploying", "Serving", "Shadow", "Canary", "Paused", "Degraded", "Asleep", "Waking"]
# Closing: idle for long enough, but the pods run until all requests go to the door.
SleepState = Literal["Closing", "Asleep", "Waking"]
RetrainingState = Literal["Idle", "Waiting", "AwaitingApproval", "Running", "Cooldown", "Blocked"]
# Unavailable: the cluster, storage or Ray failed, so the result says nothing about the model and its data.
# NotAccepted: the gates passed, but the service does not take the version.
RetrainingEnding = Literal["InFlight", "Rejected", "NotAccepted", "Unavailable", "Promoted", "Superseded"]
RetrainingTriggerKind = Literal["Drift", "Alert", "MaxAge"]
# NextStep: the candidate is not worse so far, and gets the weight of the next step.
AnalysisVerdict = Literal["Running", "Paused", "NextStep", "Promote", "RollBack"]
ShadowVerdict = Literal["Running", "Paused", "Pass", "RollBack"]
Health = Literal["Good", "Bad", "Unknown"]
Share = Annotated[str, Field(pattern=r"^[01]\.[0-9]+$", max_length=16)]
Term = Annotated[str, Field(min_length=1, max_length=128)]
RowId = Annotated[str, Field(min_length=1, max_length=512)]
AlertSource = Literal["Webhook", "Poll"]


class ServedModel(ApiModel):
    """The version to serve."""

    family: Family = Field(description="Family whose last Approved version is rolled out.")
    version: Name | None = Field(None, description="Serve only this ModelVersion.")


class Shadow(ApiModel):
    """A candidate answers copies of stable's requests, before it gets a user."""

    percent: float = Field(
        10,
        gt=0,
        le=100,
        description="Share of stable's requests that is copied to the candidate, in percent. A change applies to the "
        "next candidate.",
    )
    requests: int = Field(
        100,
        ge=1,
        le=10_000_000,
        description="Pairs of answers before a verdict. To show that the candidate is not worse may take more.",
    )
    max_seconds: int = Field(
        3600,
        ge=10,
        le=2_592_000,
        description="Seconds after which a shadow without a verdict pauses. It is checked every minute, and continues "
        "when more pairs have come.",
    )
    max_failure_increase: Fraction = Field(
        0.05,
        description="The margin: largest accepted share of pairs in which only the candidate fails, minus the share in "
        "which only stable does, at 95 % confidence.",
    )
    max_slow_increase: Fraction = Field(
        0.1,
        description="The same for pairs in which one takes more than maxLatencyRatio times as long per output token, "
        "in answers of 16 tokens or more. 1 switches it off.",
    )


class Canary(ApiModel):
    """Canary of a new revision: its limits and deadlines."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "!has(self.steps) || self.steps.map(step, step.weight).isSorted()",
                "each step's weight must be above that of the step before",
                ".steps",
            )
        )
    )
    steps: list[CanaryStep] | None = Field(
        None,
        min_length=1,
        max_length=10,
        description="Steps of the candidate's weight, with rising weights; only with `gateway`. If absent: 1, 10 and "
        "50 %, for 60 seconds each. A candidate that is not shown to be worse goes on to the next step. The last step "
        "ends with the whole comparison, by minRequests and minSeconds. The candidate gets as many pods as the largest "
        "weight needs for the same load per pod as stable.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["weight"]},
    )
    min_requests: int = Field(
        50,
        ge=1,
        le=10_000_000,
        description="Requests that each arm needs before a verdict. To show that a candidate is not worse takes more: "
        "without failures about 400 per arm at a margin of 0.01, and 80 at 0.05; with failures on both arms many times "
        "more. status.analysis.message estimates how many are missing.",
    )
    min_seconds: int = Field(30, ge=0, le=604_800, description="Minimum duration of the analysis, in seconds.")
    max_seconds: int = Field(
        3600,
        ge=10,
        le=2_592_000,
        description="Seconds after which an analysis without a verdict pauses. A paused analysis is checked every "
        "minute, and continues when more requests have come.",
    )
    max_error_rate_increase: Fraction = Field(
        0.01,
        description="The margin: largest accepted increase of the share of failed requests over stable, at 95 % "
        "confidence. A request fails if it ends with 5xx or 429. The candidate is promoted if the increase is at most "
        "the margin. It is rolled back if the increase is larger; the same applies to requests that are refused with "
        "another 4xx, and to requests that the client gives up.",
    )
    max_latency_ratio: float = Field(
        1.5,
        ge=1,
        le=100,
        description="Largest accepted ratio of the candidate's p95 latency to stable's. It is compared per answer, and "
        "per output token for answers of 16 tokens or more. The candidate is promoted if, at 95 % confidence, at most "
        "5 % plus maxErrorRateIncrease of its answers take longer than this ratio times stable's p95. It is rolled "
        "back if certainly more do.",
    )
    max_negative_feedback_increase: Fraction = Field(
        0.1,
        description="The margin for the share of negative feedback, compared once each arm has 20 ratings. A verdict "
        "takes several hundred ratings per arm. 1 switches the comparison off.",
    )
    max_first_token_increase: Fraction = Field(
        0.05,
        description="The margin for the share of streams whose first token takes longer than maxLatencyRatio times "
        "stable's p95, above the normal 5 %. Compared once each arm has minRequests streams. 1 switches it off.",
    )
    max_length_change: Fraction = Field(
        0.2,
        description="The margin for the share of long answers (more than 1.5 times the tokens of stable's median), and "
        "for the share of short ones (fewer than the median divided by 1.5). In a shadow the two answers of a pair are "
        "compared in this way. 1 switches both off.",
    )
    max_cut_off_increase: Fraction = Field(
        0.15,
        description="The margin for the share of answers that end at their limit of tokens. 1 switches it off.",
    )
    max_empty_increase: Fraction = Field(
        0.05,
        description="The margin for the share of answers without text and tool calls. 1 switches it off.",
    )
    max_model_refusal_increase: Fraction = Field(
        0.05,
        description="The margin for the share of answers that the engine marks as refused or filtered. A refusal in "
        "words is not recognised. 1 switches it off.",
    )
    shadow: Shadow | None = Field(
        None,
        description="Before the canary, the candidate answers copies of stable's requests. No user gets these answers. "
        "Failures, slow answers, and much longer or shorter answers are compared in pairs. The canary begins when each "
        "is shown to be within its margin. If one is shown to be above it, the candidate is rolled back. If shadow is "
        "absent, the canary begins at once. A shadow needs Prometheus, and is not possible with tls.",
    )
    progress_deadline_seconds: int = Field(
        600, ge=30, le=86_400, description="Seconds until the candidate's pods must be Ready."
    )


class FeedbackSpec(ApiModel):
    """Users' ratings and corrections. They are sent to a separate port, with a separate token."""

    storage: StorageUri = Field(description="Folder for the corrections.")
    retention_days: int = Field(90, ge=1, le=3650, description="Days after which corrections are no longer used.")
    max_per_user_per_hour: int = Field(
        600, ge=1, le=1_000_000, description="Maximum number of ratings per user and hour. More are refused."
    )


class Drift(ApiModel):
    """Drift detection of this service's requests and ratings."""

    enabled: bool = Field(True, description="Whether drift is detected.")
    false_alarms_per_month: Fraction = Field(
        0.01,
        description="Probability of a false alarm within 30 days, at any rate of requests. Times of the day, days of "
        "the week and the dependence of requests within users and sessions are learned. It does not cover what the "
        "baseline has never shown, such as a new customer: see docs/install.md.",
    )
    tolerance: Fraction = Field(
        0.02,
        description="Largest change that does not count as drift: of the share of bad ratings, or of the share of "
        "requests on one side of a signal's median. 0.02 is a shift of 0.05 standard deviations.",
    )
    baseline_requests: int = Field(
        300,
        ge=50,
        le=1_000_000,
        description="Number of first requests of a promoted version that define what is normal.",
    )
    baseline_minimum_hours: float = Field(
        24,
        ge=0,
        le=8760,
        description="Minimum number of hours that the baseline covers. Fractions are allowed. 24 covers every hour of "
        "the day. Until then only mostly bad ratings raise an alarm. 0: the baseline ends with baselineRequests.",
    )
    minimum_duration_minutes: float = Field(
        15,
        ge=0,
        le=10_080,
        description="Minutes that a change must last, about, before it raises an alarm. Fractions are allowed. A "
        "shorter burst of requests raises none. 0: no minimum.",
    )
    novelty: bool = Field(
        True,
        description="Whether the distance of requests in meaning from everything that was asked in training is watched "
        "too. A version has it if it was trained on about 130 different texts or more.",
    )
    answers: bool = Field(
        False,
        description="Whether the length of answers, and the share of them that the engine refused or left empty, are "
        "watched too. A client that sets another limit of tokens then looks like drift.",
    )
    topics: bool = Field(
        False,
        description="Whether an alarm says what the new requests are about: words that far more requests have than "
        "before, in status.drift.topics. Only words that several prompts of stored ratings (consent: true) have are "
        "named. They can be read by whoever may read this object, its alert or the operator's metrics, or reaches the "
        "metrics port of its pods. A change is a new revision.",
    )


class RetrainingTrigger(ApiModel):
    """An alert of another system that also starts retraining."""

    alertname: Text = Field(description="Value of the alert's label alertname.")
    labels: dict[str, Text] = Field(default={}, max_length=16, description="Other labels that the alert must have.")


class JobTemplateMetadata(ApiModel):
    """Labels and annotations of the FineTuneJob."""

    labels: dict[str, LabelValue] = Field(default={}, max_length=32, description="Labels of the job.")
    annotations: dict[str, AnnotationValue] = Field(default={}, max_length=32, description="Annotations of the job.")


class JobTemplate(ApiModel):
    """The FineTuneJob to create."""

    metadata: JobTemplateMetadata = Field(
        default=JobTemplateMetadata(), description="Labels and annotations of the job."
    )
    spec: FineTuneJobSpec = Field(description="Spec of the job.")


class Retraining(ApiModel):
    """When a new version is trained, and how."""

    approval: Literal["manual", "automatic"] = Field(
        "manual",
        description="manual: retraining starts when the annotation driftloop.dev/approve-retraining names the "
        "proposal. automatic: it starts without approval.",
    )
    triggers: list[RetrainingTrigger] = Field(
        default=[], max_length=32, description="Alerts of other systems that also start retraining."
    )
    max_age_seconds: int | None = Field(
        None, ge=60, le=315_360_000, description="Age in seconds at which a version is retrained."
    )
    cooldown_seconds: int = Field(
        3600, ge=0, le=31_536_000, description="Seconds between two retrainings. Each rejection doubles them."
    )
    min_samples: int = Field(
        500, ge=1, le=100_000_000, description="Number of eligible corrections since the change that retraining needs."
    )
    max_rejections: int = Field(
        3, ge=1, le=100, description="Number of rejected candidates in a row after which retraining stops."
    )
    max_jobs_per_day: int = Field(4, ge=1, le=1000, description="Maximum number of jobs per day.")
    job_template: JobTemplate = Field(
        description="The FineTuneJob to create. A drift alarm ends only with a version that shows a gain on a target "
        "suite: give the job one with items: feedback. Without one, drift starts no job. Set data.replay to the old "
        "rows: on new rows alone a model forgets most of what it knew, and status.retraining.warning says so."
    )


class ServiceTls(ApiModel):
    """HTTPS."""

    secret_name: SubdomainName = Field(
        description="Secret of the type kubernetes.io/tls in this namespace. The pods follow its changes, such as "
        "renewals by cert-manager, without a restart."
    )


class ModelCache(ApiModel):
    """Copies of served models on a claim, from which pods start without a download."""

    storage: StorageUri = Field(
        description="Folder for the copies: pvc://claim/path. A claim of which each node has its own disk makes it a "
        "cache per node (docs/install.md)."
    )
    max_size: Quantity = Field(
        description="Largest sum of the copies, such as 200Gi. For a new one, those that were not used for the longest "
        "time are deleted."
    )


class ScaleToZero(ApiModel):
    """Without requests the service has no pods, and the next requests wait at its door until a pod is ready."""

    idle_seconds: int = Field(
        600,
        ge=10,
        le=2_592_000,
        description="Seconds without a request after which the pods are taken away. Lists of models, and requests "
        "without a valid API key, do not count.",
    )
    hold_seconds: int = Field(
        300,
        ge=1,
        le=3600,
        description="Seconds that a request waits for a pod. Then it fails with 503 and Retry-After. Set it above the "
        "time that a pod needs to start (status.stable.coldStart), and the timeout of the clients above it.",
    )


class InferenceServiceSpec(ApiModel):
    """The service to run."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "!has(self.retraining) || self.retraining.jobTemplate.spec.output.family == self.model.family",
                "retraining.jobTemplate.spec.output.family must be model.family",
                ".retraining.jobTemplate.spec.output.family",
            ),
            rule(
                "!has(self.retraining) || !has(self.retraining.jobTemplate.spec.resumeFrom)",
                "a retraining starts from a version: remove resumeFrom",
                ".retraining.jobTemplate.spec.resumeFrom",
            ),
            rule(
                "!has(self.gateway) || !has(self.tls)",
                "the Gateway speaks HTTP to the pods: remove tls, and put the certificate on the Gateway's listener",
                ".tls",
            ),
            rule(
                "!has(self.modelCache) || self.modelCache.storage.startsWith('pvc://')",
                "copies are on a claim: pvc://claim/path",
                ".modelCache.storage",
            ),
            rule(
                "has(self.gateway) || !has(self.canary) || !has(self.canary.steps)",
                "weights need a Gateway: set gateway, or remove canary.steps",
                ".canary.steps",
            ),
            rule(
                "!has(self.scaleToZero) || !has(self.tls)",
                "the door speaks HTTP: remove tls or scaleToZero",
                ".scaleToZero",
            ),
            rule(
                "!has(self.scaleToZero) || !has(self.replicas) || self.replicas > 0",
                "replicas is the number of pods while the service is awake: set at least 1, or remove scaleToZero. An "
                "autoscaler must keep at least 1, too: minReplicas, or KEDA's minReplicaCount",
                ".replicas",
            ),
            rule(
                "!has(self.drift) || !has(self.drift.topics) || !self.drift.topics || has(self.feedback)",
                "only words of stored prompts are named: set feedback, or remove drift.topics",
                ".drift.topics",
            ),
        )
    )
    model: ServedModel = Field(description="The version to serve.")
    acceptance: Acceptance | None = Field(
        None,
        description="What a version must have shown before this service takes it, in addition to its Approved gates. "
        "The operator's own default (acceptance in the chart's values) applies too: a version must meet both. It is "
        "checked when a version becomes the candidate. A version that serves already stays.",
    )
    engine: Engine = Field(default=Engine(), description="The engine that runs the model.")
    replicas: int = Field(1, ge=0, le=1000, description="Number of pods of the service.")
    scale_to_zero: ScaleToZero | None = Field(
        None,
        description="Take all pods away while no requests come. An autoscaler may own `replicas` beside it. Not "
        "possible with tls.",
    )
    drain_seconds: int = Field(30, ge=1, le=3600, description="Seconds that a stopping pod has to finish its streams.")
    request_timeout_seconds: int = Field(
        3600,
        ge=1,
        le=86_400,
        description="Maximum duration of a request, including its whole answer, streamed or not. Then it fails with "
        "504.",
    )
    allowed_origins: list[Origin] = Field(
        default=[],
        max_length=64,
        description="Origins of web pages that may call the API from a browser (CORS), such as "
        "https://chat.example.org. * allows any. If empty, browsers refuse the calls. Other clients do not need this.",
    )
    api_keys: ForeignRef | None = Field(
        None,
        description="Secret with the clients that may call the API. Each entry is a client's name, and as JSON the "
        'SHA-256 of its keys with its limit: {"sha256": ["HEX"], "requestsPerMinute": 600}. Clients send '
        "Authorization: Bearer KEY. If absent, everybody who reaches the service may call it.",
    )
    tls: ServiceTls | None = Field(
        None,
        description="Serve the API and the ratings by HTTPS, on port 443 of their Services, instead of by HTTP on port "
        "80. TLS 1.2 or newer.",
    )
    model_cache: ModelCache | None = Field(
        None,
        description="Where pods keep copies of the models that they have downloaded, for the next pods. Each copy is "
        "verified when it is used. Of an adapter alone, its base is kept, if engine.adapters is set.",
    )
    gateway: GatewayRef | None = Field(
        None,
        description="A Gateway (Gateway API) through which users reach the service. Then a candidate gets its share of "
        "the requests by weight (canary.steps), not by its number of pods.",
    )
    canary: Canary = Field(default=Canary(), description="Canary of a new revision: its limits and deadlines.")
    approval: Literal["automatic", "git"] = Field(
        "automatic",
        description="Who chooses the version. automatic: the newest Approved version of the family is rolled out, "
        "unless model.version pins one. git: only model.version is rolled out. status.proposal has a newer version "
        "that could be, with the manifest to commit; the operator never changes a spec.",
    )
    promotion: Literal["automatic", "manual"] = Field(
        "automatic",
        description="automatic: a candidate that passes its canary is promoted. manual: it waits for the annotation "
        'driftloop.dev/rollout: "promote REVISION by WHO". The first revision of a service has no canary, and serves '
        "without a command.",
    )
    feedback: FeedbackSpec | None = Field(None, description="Accept users' ratings and corrections, and store them.")
    drift: Drift = Field(default=Drift(), description="Drift detection of this service's requests and ratings.")
    retraining: Retraining | None = Field(None, description="When a new version is trained, and how.")
    pod_overrides: PodOverrides = Field(
        default=PodOverrides(), description="Settings that a platform adds to the pods."
    )


class ServingPlan(ApiModel):
    """How the memory of each GPU of a pod is used, in bytes, as estimated before the pod starts."""

    available_bytes: int = Field(description="Memory that the engine may use.")
    weights_bytes: int = Field(description="Weights, the part of one GPU.")
    working_bytes: int = Field(description="CUDA, NCCL, CUDA graphs, and what a forward pass needs.")
    cache_bytes: int = Field(description="What is left for the cache of keys and values.")
    cache_tokens: int = Field(description="Tokens of all requests together that the cache holds.")
    context_tokens: int = Field(description="Longest context of one request.")


class ColdStart(ApiModel):
    """How long a pod took until it could serve, by phase, in whole seconds as Kubernetes records them."""

    pod: str = Field(max_length=253, description="The pod: the newest one of the revision that is ready.")
    total_seconds: int = Field(description="From the pod's creation until it was ready.")
    node_seconds: int = Field(description="Until a node was found.")
    image_seconds: int = Field(description="Until images and volumes were there.")
    fetch_seconds: int = Field(description="For the model: reading, verifying and merging.")
    load_seconds: int = Field(description="Until the engine had loaded the model and answered.")


class RevisionStatus(ApiModel):
    """One revision: a version with its engine, images and settings."""

    revision: str = Field(max_length=63, description="Hash of everything that determines the pods.")
    version: Name = Field(description="The ModelVersion of this revision.")
    digest: Digest | None = Field(None, description="Digest of the version's artefact.")
    engine: str | None = Field(
        None,
        max_length=32,
        description="The engine that runs: transformers, vllm or custom. Absent in older revisions.",
    )
    plan: ServingPlan | None = Field(
        None,
        description="Estimated memory of its GPUs. Absent without GPUs, and if the sizes of the model, the memory of "
        "the GPUs or the effect of engine.args is unknown.",
    )
    cold_start: ColdStart | None = Field(None, description="How long the start of a pod takes, by phase.")
    replicas: int = Field(0, description="Number of desired pods.")
    ready_replicas: int = Field(0, description="Number of ready pods.")
    since: Timestamp | None = Field(None, description="When the revision got this role.")


class RolloutCommand(ApiModel):
    """The last command in the annotation driftloop.dev/rollout, and what became of it."""

    value: str = Field(max_length=512, description="Value of the annotation, cut to 512 characters.")
    action: Literal["pause", "resume", "promote", "abort"] | None = Field(
        None, description="The command. Absent if the value has another form."
    )
    revision: str | None = Field(None, max_length=63, description="The revision that the command is about.")
    by: str | None = Field(
        None,
        max_length=128,
        description="The name in the annotation. Only an admission policy can verify it.",
    )
    time: Timestamp = Field(description="When the operator acted on it, by the operator's clock.")
    obeyed: bool = Field(description="Whether it was obeyed. If not, the message explains why.")
    message: str = Field(max_length=1024, description="What was done, or why nothing was done.")


class WaitingVersion(ApiModel):
    """An Approved version that the service does not take, because it lacks something that `acceptance` requires."""

    version: Name = Field(description="The ModelVersion.")
    missing: list[Annotated[str, Field(max_length=512)]] = Field(
        max_length=40, description="What it lacks, one sentence each, with what to do about it."
    )


class Proposal(ApiModel):
    """A version that the service would roll out if it were pinned."""

    version: Name = Field(description="The ModelVersion.")
    message: str = Field(max_length=512, description="What it could replace, and what its gates have shown.")
    manifest: str = Field(max_length=2048, description="The fields to commit, as YAML.")


class Measure(ApiModel):
    """One comparison of the two arms of a canary."""

    name: str = Field(max_length=128, description="What is compared, such as failed, or empty.")
    verdict: str = Field(
        max_length=32,
        description="worse, not worse, unclear or not compared. Worse rolls the candidate back; unclear waits.",
    )
    interval: str | None = Field(
        None,
        max_length=64,
        description="The difference of the shares, candidate minus stable, in percentage points. It holds at every "
        "check.",
    )
    margin: str | None = Field(None, max_length=16, description="Largest accepted difference.")
    message: str = Field(max_length=512, description="The figures in a sentence.")


class Analysis(ApiModel):
    """Figures of the two arms of a canary over the same time."""

    started: Timestamp | None = Field(None, description="When both arms were ready.")
    looked: Timestamp | None = Field(None, description="When the figures were last read.")
    step: str | None = Field(
        None, max_length=32, description="With a Gateway: the candidate's weight, such as 10 % (step 2 of 3)."
    )
    stable_requests: int = Field(0, description="Requests of the stable arm since `started`.")
    candidate_requests: int = Field(0, description="Requests of the candidate arm since `started`.")
    stable_error_rate: str | None = Field(None, max_length=16, description="Share of failed requests, stable.")
    candidate_error_rate: str | None = Field(None, max_length=16, description="Share of failed requests, candidate.")
    stable_latency: str | None = Field(None, max_length=16, description="p95 latency in seconds, stable.")
    candidate_latency: str | None = Field(None, max_length=16, description="p95 latency in seconds, candidate.")
    stable_token_latency: str | None = Field(
        None, max_length=16, description="p95 latency in seconds per output token, stable."
    )
    candidate_token_latency: str | None = Field(
        None, max_length=16, description="p95 latency in seconds per output token, candidate."
    )
    stable_negative_feedback: str | None = Field(None, max_length=16, description="Share of negative feedback, stable.")
    candidate_negative_feedback: str | None = Field(
        None, max_length=16, description="Share of negative feedback, candidate."
    )
    measures: list[Measure] = Field(default=[], max_length=32, description="All comparisons of the last check.")
    verdict: AnalysisVerdict | None = Field(None, description="Result of the analysis so far.")
    message: str | None = Field(None, max_length=1024, description="Reason for the verdict.")


class ShadowStatus(ApiModel):
    """Pairs of answers of stable and a candidate that has no users yet, to the same requests."""

    started: Timestamp | None = Field(None, description="When the shadow began.")
    looked: Timestamp | None = Field(None, description="When the figures of a paused shadow were last read.")
    progress: str | None = Field(
        None, max_length=32, description="Pairs so far, and the minimum number, such as 40/100."
    )
    pairs: int = Field(0, description="Pairs of answers.")
    equal_answers: str | None = Field(
        None, max_length=64, description="How many greedy answers were equal. For people: no verdict depends on it."
    )
    dropped: dict[str, int] = Field(
        default={},
        max_length=8,
        description="Copies that make no pair: busy (too many were running), long (the request), refused (the "
        "candidate's queue was full), unreachable (its pod was gone, for example while it moves to another node).",
    )
    measures: list[Measure] = Field(default=[], max_length=32, description="All comparisons of the last check.")
    verdict: ShadowVerdict | None = Field(None, description="Result so far.")
    message: str | None = Field(None, max_length=1024, description="Reason for the verdict.")


class ReferenceSignal(ApiModel):
    """Reference histogram of one signal."""

    signal: str = Field(max_length=32, description="Name of the signal.")
    counts: list[int] = Field(max_length=32, description="Requests per bin, in the order of the bins.")


class LearnedSignal(ApiModel):
    """What is normal for one signal, beside its baseline. Counts per bin are separated by spaces."""

    signal: str = Field(max_length=32, description="Name of the signal.")
    block: str = Field("", max_length=512, description="Counts of the current block, which is not learned yet.")
    previous: str = Field("", max_length=512, description="Counts of the previous block.")
    today: str = Field("", max_length=512, description="Counts of the current day.")
    hours: str = Field("", max_length=8192, description="Counts per hour of the day in UTC, separated by bars.")
    weekdays: str = Field("", max_length=4096, description="Counts of whole days per weekday, separated by bars.")
    spread: str = Field(
        "", max_length=128, description="Sums for the design effect of blocks and days, and the difference of today."
    )
    design_effect: str | None = Field(
        None, max_length=16, description="How many requests count as one independent request."
    )


class Learned(ApiModel):
    """What is normal by the time of the day and the day of the week, and how much requests depend on each other."""

    block_since: Timestamp | None = Field(None, description="When the current block began.")
    whole_day: bool = Field(False, description="Whether the current day was learned from its beginning.")
    signals: list[LearnedSignal] = Field(default=[], max_length=16, description="What was learned, per signal.")


class DriftTopic(ApiModel):
    """What more requests are about than before: words, or pairs of words, that the same requests have."""

    terms: list[Term] = Field(
        min_length=1, max_length=3, description="The words. The numbers are those of the first entry."
    )
    before: Share = Field(description="Share of the requests before the change, as a decimal string.")
    since: Share = Field(description="Share of the requests since the change, as a decimal string.")
    requests: int = Field(ge=0, description="Requests since the change that have it, in the sample of one pod.")
    rows: list[RowId] = Field(
        default=[],
        max_length=3,
        description="The ids of stored ratings since the change that show it best, if there are any.",
    )


class DriftStatus(ApiModel):
    """State of the drift detector. Evidence and `consumedUntil` are written together, so that they always agree."""

    version: Name | None = Field(None, description="The version that the evidence is about.")
    since: Timestamp | None = Field(None, description="When the version's baseline began.")
    consumed_until: Timestamp | None = Field(None, description="Time up to which counters were read.")
    requests: int = Field(0, description="Number of requests judged since the baseline.")
    evidence: dict[str, str] = Field(
        default={}, max_length=16, description="Detector state per signal, as decimal strings."
    )
    log_evidence: str | None = Field(None, max_length=16, description="Combined evidence, as a natural logarithm.")
    threshold: str | None = Field(None, max_length=16, description="The alarm rises above this value.")
    baseline: list[ReferenceSignal] = Field(
        default=[], max_length=16, description="Histograms of the first requests, per signal."
    )
    learned: Learned | None = Field(None, description="What is normal at this hour and on this day.")
    health: Health | None = Field(
        None, description="Whether the baseline's ratings are mostly good. Unknown: fewer than ten ratings."
    )
    training_distance: dict[str, str] = Field(
        default={},
        max_length=16,
        description="Distance of the baseline from the training data, per text signal: the mean score in standard "
        "deviations, as a decimal string. It is for people only.",
    )
    first_baseline: list[ReferenceSignal] = Field(
        default=[], max_length=16, description="The service's first baseline, for long-term comparison."
    )
    alarm: bool = Field(False, description="Whether the evidence is above the threshold.")
    last_alarm: Timestamp | None = Field(
        None,
        description="When the evidence was last above the threshold. A drift alert counts only near this time.",
    )
    held_from: Name | None = Field(
        None,
        description="The version that served when the alarm rose, if another version serves now that has not shown a "
        "gain on a target suite. The alarm stays until a version has shown one.",
    )
    change_point: Timestamp | None = Field(None, description="Estimated start of the change.")
    changed: list[ReferenceSignal] = Field(
        default=[], max_length=16, description="Histograms of the requests since changePoint, per signal."
    )
    shift: dict[str, str] = Field(
        default={},
        max_length=16,
        description="During an alarm, how far the signals that drifted have moved from the baseline since "
        "changePoint: the mean score in standard deviations, as a decimal string.",
    )
    topics: list[DriftTopic] = Field(
        default=[],
        max_length=3,
        description="During an alarm, what the new requests are about, if spec.drift.topics allows it.",
    )
    topics_at: Timestamp | None = Field(None, description="When a pod told the topics. Without it they are unknown.")
    unnamed_topics: int = Field(0, ge=0, description="Topics that grew too, but whose words may not be named.")
    message: str | None = Field(
        None,
        max_length=512,
        description="During an alarm, what changed, by how much and since when, in a sentence. Before it, what the "
        "baseline still needs, or what requests are compared with.",
    )


class AlertRecord(ApiModel):
    """An alert that a replica of the operator recorded. A separate field manager writes it."""

    key: str = Field(max_length=128, description="Fingerprint and start time of the alert.")
    alertname: Text = Field(description="Name of the alert.")
    started: Timestamp = Field(description="When the alert started to fire.")
    received: Timestamp = Field(description="When the alert was recorded.")
    source: AlertSource = Field(description="How the alert was received.")


class RetrainingStatus(ApiModel):
    """State of retraining."""

    state: RetrainingState | None = Field(None, description="Current state.")
    message: str | None = Field(
        None, max_length=512, description="The state in a sentence, such as Waiting: 212/500 samples."
    )
    warning: str | None = Field(
        None,
        max_length=512,
        description="What the job of a retraining lacks: without data.replay it forgets old rows. It is no obstacle.",
    )
    trigger: RetrainingTriggerKind | None = Field(None, description="Why retraining is requested.")
    alert_key: str | None = Field(None, max_length=128, description="The alert that requests retraining.")
    since: Timestamp | None = Field(None, description="When retraining was first requested.")
    samples: int = Field(0, description="Number of eligible corrections since the change.")
    samples_needed: int = Field(0, description="Number of eligible corrections that retraining needs.")
    proposal: Name | None = Field(None, description="Name of the job that is proposed or was created.")
    job: Name | None = Field(None, description="The running job.")
    version: Name | None = Field(None, description="The stable version that `ordinal` and `rejections` count for.")
    last_ending: RetrainingEnding | None = Field(
        None,
        description="How the last retraining ended. Unavailable: the cluster or the storage failed, which does not "
        "count as a rejection. NotAccepted: the version is Approved, but does not meet `acceptance`, see "
        "status.waiting, or is not pinned with approval git; this counts as a rejection.",
    )
    ordinal: int = Field(0, description="Number of retrainings started for this stable version.")
    rejections: int = Field(0, description="Number of rejected or not accepted candidates in a row.")
    last_finished: Timestamp | None = Field(None, description="When the last retraining ended.")
    handled_alerts: list[Annotated[str, Field(max_length=128)]] = Field(
        default=[], max_length=64, description="Keys of the alerts that already led to a job."
    )


class SleepStatus(ApiModel):
    """How far a service with scaleToZero is between awake and asleep."""

    state: SleepState = Field(description="Closing, Asleep or Waking.")
    since: Timestamp = Field(description="Since when.")
    unheard_since: Timestamp | None = Field(
        None,
        description="Since when the door has not answered the operator. After a minute the service is woken, as "
        "requests may wait there.",
    )


class InferenceServiceStatus(ApiModel):
    """The last observed state."""

    observed_generation: int | None = Field(None, description="Generation of the spec that this status describes.")
    phase: ServicePhase | None = Field(None, description="The service's current phase.")
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        description="Conditions of the service. See docs/conditions.md.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    url: Text | None = Field(None, description="Address of the API inside the cluster.")
    stable: RevisionStatus | None = Field(None, description="The revision that serves.")
    candidate: RevisionStatus | None = Field(None, description="The revision that is tried beside stable.")
    sleep: SleepStatus | None = Field(None, description="With scaleToZero: absent while the service is awake.")
    waiting: WaitingVersion | None = Field(
        None, description="The newest Approved version that the service does not take, and what it lacks."
    )
    proposal: Proposal | None = Field(
        None,
        description="With a pinned version or approval git: the newest version that could be rolled out instead.",
    )
    command: RolloutCommand | None = Field(
        None, description="The last command of a person about the candidate, by the annotation driftloop.dev/rollout."
    )
    traffic: str | None = Field(
        None, max_length=32, description="Percent of requests to stable and candidate, such as 90/10."
    )
    analysis: Analysis | None = Field(None, description="The running canary, or the last one.")
    shadow: ShadowStatus | None = Field(None, description="The running shadow, or the last one.")
    failed_revisions: list[Annotated[str, Field(max_length=63)]] = Field(
        default=[],
        max_length=32,
        description="Revisions that were rolled back. One is tried again when the annotation driftloop.dev/retry names "
        "it.",
    )
    drift: DriftStatus | None = Field(None, description="State of the drift detector.")
    retraining: RetrainingStatus | None = Field(None, description="State of retraining.")
    alerts: list[AlertRecord] = Field(
        default=[],
        max_length=64,
        description="Alerts that the operator recorded.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"]},
    )
    replicas: int = Field(0, description="Number of pods of the service.")
    selector: str | None = Field(
        None, max_length=256, description="Label selector of the pods, for the scale subresource."
    )


class InferenceService(ApiModel):
    """Serves the best version of a family, detects drift, and starts retraining."""

    KIND: ClassVar[str] = "InferenceService"
    PLURAL: ClassVar[str] = "inferenceservices"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("dlsvc",)
    COLUMNS: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("Phase", "string", ".status.phase"),
        ("Stable", "string", ".status.stable.version"),
        ("Candidate", "string", ".status.candidate.version"),
        ("Traffic", "string", ".status.traffic"),
        ("Shadow", "string", ".status.shadow.progress"),
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
            "retraining uses this service's corrections: set spec.feedback.storage, so that the service accepts them",
            ".spec.feedback",
        ),
    )
    SCALE: ClassVar[tuple[str, str, str]] = (".spec.replicas", ".status.replicas", ".status.selector")
    spec: InferenceServiceSpec = Field(description="The service to run.")
    status: InferenceServiceStatus = Field(default=InferenceServiceStatus(), description="The last observed state.")
