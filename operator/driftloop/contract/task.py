"""Tasks that the operator gives to a pod: one versioned JSON document in the environment variable DRIFTLOOP_TASK.

`$` is written as \\u0024, because Kubernetes expands `$(X)` and `$$` in a container's environment.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from driftloop.api.base import ApiModel, Digest
from driftloop.api.engine import EngineAdapters, EngineType
from driftloop.api.evaluation import Contract
from driftloop.api.finetunejob import (
    HELD_OUT_PERCENT,
    CheckpointMode,
    DataSpec,
    Elastic,
    GradientReduction,
    NewModel,
    Parallelism,
    TrainingSpec,
)
from driftloop.api.modelversion import Lineage
from driftloop.api.suite import SuiteSpec
from driftloop.contract.loss import LOGITS_BYTES
from driftloop.contract.names import (
    API_PORT,
    ENGINE_PORT,
    FEEDBACK_PORT,
    METRICS_PORT,
    MODEL_DIR,
    TASK_ENV,
    TASK_FILE_ENV,
)

TASK_VERSION = 1
MAX_ENV_BYTES = 64 * 1024


class ModelSource(ApiModel):
    """The model that training starts from: a folder, or a new model. Exactly one of `uri` and `new` is set."""

    uri: str | None = None
    digest: Digest | None = None  # of the manifest in the folder
    content: Digest | None = None  # of a folder that has no manifest: of the one that prepare left beside the data
    bases: tuple[str, ...] = ()  # of an adapter: the folder of its base, and so on up to a whole model
    new: NewModel | None = None


class FeedbackSource(ApiModel):
    """The feedback of a service. Its segments are `uri/version/pod/sequence.jsonl`."""

    uri: str
    max_rows: int = 100_000
    max_rows_per_user: int = 1000


class PrepareTask(ApiModel):
    """Clean, hold out and tokenise the rows. Writes a folder with manifest.json to `output`."""

    kind: Literal["Prepare"] = "Prepare"
    task_version: int = TASK_VERSION
    job: str
    job_uid: str
    family: str
    held_out_salt: str | None = None  # hashed with a row to decide whether it is held out; the family if absent
    model: ModelSource
    data: DataSpec  # held_out_percent is already the inherited one
    feedback: FeedbackSource | None = None  # data.feedback, resolved
    training: TrainingSpec
    merge_adapter: bool = True  # into a whole model
    suites: tuple[SuiteSpec, ...] = ()  # prepare writes the items file of those with `items`
    contract: Contract | None = None  # recorded requests to the API, which prepare only reads
    storage: str  # spec.storage; the output is in storage/prepared/<job uid>
    output: str


class TrainTask(ApiModel):
    """Train on a prepared folder. Writes the model folder to `output`."""

    kind: Literal["Train"] = "Train"
    task_version: int = TASK_VERSION
    job: str
    job_uid: str  # name of the run: a new pod resumes from the run's last checkpoint
    family: str
    model: ModelSource
    data_uri: str
    data_digest: Digest
    training: TrainingSpec
    merge_adapter: bool = True  # into a whole model
    nodes: int
    workers_per_node: int  # training processes per pod
    gpus_per_node: int
    elastic: Elastic | None = None  # `nodes` is the most
    parallelism: Parallelism = Parallelism()
    gradient_accumulation_steps: int
    gradient_reduction: GradientReduction = "step"
    checkpoints: CheckpointMode = "asynchronous"
    per_device_train_batch_size: int
    logits_bytes: int = LOGITS_BYTES  # of the tokens whose logits are computed at a time
    total_steps: int
    head: str  # stable DNS name of pod index 0
    startup_timeout_seconds: int
    grace_period_seconds: int = 30
    backoff_limit: int
    attempt: int  # a resume after suspend adds one
    runs: str  # folder of the checkpoints
    resume_from: str | None = None  # folder of another job's checkpoints, for the first start
    output: str
    lineage: Lineage


class EvaluationArm(ApiModel):
    """A model that the same pod serves over HTTP."""

    version: str
    digest: Digest
    url: str  # http://127.0.0.1:8080
    ready_url: str  # http://127.0.0.1:9090/readyz


class AnswerTask(ApiModel):
    """Ask one arm all items. Writes its answers to `output`; an evaluation compares with them."""

    kind: Literal["Answer"] = "Answer"
    task_version: int = TASK_VERSION
    family: str
    arm: EvaluationArm
    suites: list[SuiteSpec]  # each with `uri`
    max_tokens: int = 32  # for suites that set none
    reasoning_tags: tuple[str, str] | None = None  # start and end of thoughts that are not scored
    contract: Contract | None = None  # recorded requests to the API
    concurrency: int = 8
    startup_timeout_seconds: int = 600
    request_timeout_seconds: int = 120
    output: str


class Baseline(ApiModel):
    """The version to compare with, and the folder with its answers; None if no suite compares."""

    version: str
    digest: Digest
    answers: str | None = None
    answers_digest: Digest | None = None


class EvaluateTask(ApiModel):
    """Ask the candidate all items and compare with the baseline. Writes answers and statistics to `output`."""

    kind: Literal["Evaluate"] = "Evaluate"
    task_version: int = TASK_VERSION
    family: str
    candidate: EvaluationArm
    baseline: Baseline | None = None
    suites: list[SuiteSpec]  # each with `uri`
    looks: dict[str, int] = Field(
        {}
    )  # by suite, number of this look at its items (contract/looks.py); absent: the first
    anchor: Baseline | None = None  # from which suites with totalDelta count the loss
    anchor_looks: dict[str, int] = Field({})  # the same as `looks`, for the comparison with the anchor
    max_tokens: int = 32  # for suites that set none
    reasoning_tags: tuple[str, str] | None = None  # start and end of thoughts that are not scored
    contract: Contract | None = None  # recorded requests to the API
    concurrency: int = 8
    startup_timeout_seconds: int = 600
    request_timeout_seconds: int = 120
    output: str


class ServeTask(ApiModel):
    """Settings of fetch, engine and proxy in one serving pod."""

    kind: Literal["Serve"] = "Serve"
    task_version: int = TASK_VERSION
    namespace: str
    service: str  # name in /v1/models, and value of the label inference_service
    service_uid: str
    family: str
    version: str
    revision: str
    artefact_uri: str
    artefact_digest: Digest
    artefact_bases: tuple[str, ...] = ()  # of an adapter: the folder of its base, and so on up to a whole model
    model_dir: str = MODEL_DIR
    engine_type: EngineType = "transformers"
    adapters: EngineAdapters | None = None  # how an adapter is served beside its base; None: it is merged
    chat_template: str | None = None  # instead of the version's own
    chat_template_kwargs: dict[str, Any] | None = None  # defaults of its variables
    readiness_path: str | None = None  # of a custom engine; None: a generated token is enough
    max_model_len: int | None = None
    max_num_seqs: int = 32
    dtype: str = "auto"
    drain_seconds: int = 30
    request_timeout_seconds: int = 3600
    allowed_origins: tuple[str, ...] = ()  # web pages that may call the API from a browser
    api_keys_secret: str | None = None  # its clients and the hashes of their keys are in API_KEYS_DIR; None: no keys
    tls_secret: str | None = None  # its certificate is in TLS_DIR, and API and feedback are HTTPS; None: HTTP
    cache_uri: str | None = None  # folder on a claim with copies of models; None: each pod reads the artefact
    cache_bytes: int = 0  # largest sum of these copies
    feedback_uri: str | None = None  # this service's folder: segments go to <uri>/<version>/<pod>; None: no feedback
    feedback_max_per_user_per_hour: int = 600
    feedback_retention_days: int = 90
    shadow_url: str | None = None  # where a candidate in the shadow takes copies of requests; None: no copies
    shadow_percent: float = 0.0  # share of stable's requests that this pod wants, as a candidate in the shadow
    shadow_latency_ratio: float = 1.5  # a pair differs in time if one takes that many times longer per token
    drift_topics: bool = False  # whether the pod may name words of stored prompts (proxy/topics.py)
    held_out_salt: str | None = None  # from the lineage of the served version; the family if absent
    held_out_percent: int = HELD_OUT_PERCENT
    engine_port: int = ENGINE_PORT
    api_port: int = API_PORT
    feedback_port: int = FEEDBACK_PORT
    metrics_port: int = METRICS_PORT

    @property
    def serves_adapter(self) -> bool:
        """Whether the version is an adapter that the engine adds to its base by itself."""
        return self.adapters is not None and bool(self.artefact_bases)

    @property
    def adapter_dir(self) -> str:
        """The folder of that adapter."""
        return f"{self.model_dir}/adapter"

    @property
    def engine_model(self) -> str:
        """The name by which the engine knows what is served."""
        return self.version if self.serves_adapter else self.service


class DoorTask(ApiModel):
    """Settings of the door, which holds requests while the service has no serving pod."""

    kind: Literal["Door"] = "Door"
    task_version: int = TASK_VERSION
    service: str  # name in /v1/models, and value of the label inference_service
    pods_url: str  # where a serving pod answers, once one is ready
    hold_seconds: int  # a request that is held for longer gets 503
    linger_seconds: int  # a door that stops goes on as before for so long, until another one is ready
    drain_seconds: int  # linger_seconds, and the time to end the requests that it then holds or passes on
    request_timeout_seconds: int = 3600
    allowed_origins: tuple[str, ...] = ()  # web pages that may call the API from a browser
    api_keys_secret: str | None = None  # its clients and the hashes of their keys are in API_KEYS_DIR; None: no keys
    ratings_url: str | None = None  # where a serving pod takes ratings; None: the service takes none
    api_port: int = API_PORT
    feedback_port: int = FEEDBACK_PORT
    metrics_port: int = METRICS_PORT


AnyTask = PrepareTask | TrainTask | AnswerTask | EvaluateTask | ServeTask | DoorTask
Task = Annotated[AnyTask, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[AnyTask] = TypeAdapter(Task)


def encode(task: AnyTask) -> str:
    """The JSON document for the environment, without `$`."""
    return task.model_dump_json(by_alias=True, exclude_none=True).replace("$", "\\u0024")


def decode(document: str | bytes) -> AnyTask:
    """The task of a JSON document. Raises pydantic.ValidationError that names the field."""
    return _ADAPTER.validate_json(document)


def from_environment() -> AnyTask:
    """The task of this process, from DRIFTLOOP_TASK or from the file that DRIFTLOOP_TASK_FILE names."""
    if document := os.environ.get(TASK_ENV):
        return decode(document)
    if path := os.environ.get(TASK_FILE_ENV):
        return decode(Path(path).read_bytes())
    raise SystemExit(f"set {TASK_ENV} or {TASK_FILE_ENV} to a task document")
