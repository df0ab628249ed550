"""FineTuneJob: data and a model in, a ModelVersion out."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from driftloop.api.base import (
    ApiModel,
    Condition,
    Digest,
    Family,
    Fraction,
    Name,
    ObjectRef,
    PodOverrides,
    Quantity,
    QueueName,
    Resources,
    StorageUri,
    SuiteSpec,
    Text,
    Timestamp,
    cel,
    exactly_one,
    rule,
)
from driftloop.api.evaluation import EvaluationSettings


class NewTokenizer(ApiModel):
    """A byte-level BPE tokenizer to train on the job's data."""

    vocab_size: int = Field(2048, ge=300, le=262_144, description="Entries of the vocabulary, special tokens included.")


class NewModel(ApiModel):
    """A model to initialise at random: `method: pretrain`."""

    architecture: dict[str, Any] = Field(
        description="A transformers configuration: model_type and its fields (hidden_size, num_hidden_layers ...).",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    tokenizer: NewTokenizer = Field(default=NewTokenizer(vocab_size=2048), description="The tokenizer to train.")


class ModelFrom(ApiModel):
    """Where training starts. Exactly one field is set."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("uri", "versionRef", "family", "serving", "config"),
            rule("!has(self.digest) || has(self.uri)", "digest goes with uri", ".digest"),
        )
    )
    uri: StorageUri | None = Field(None, description="Folder of a Hugging Face model (config, tokenizer, safetensors).")
    digest: Digest | None = Field(None, description="Content digest of the folder at `uri`; checked before use.")
    version_ref: ObjectRef | None = Field(None, description="A ModelVersion of this namespace.")
    family: Family | None = Field(
        None,
        description="The last Approved version of this family, or where there is none the last that awaits approval; "
        "waits until there is one.",
    )
    serving: ObjectRef | None = Field(None, description="The stable version of this InferenceService.")
    config: NewModel | None = Field(None, description="No model yet: initialise one and train its tokenizer.")


class ModelSpec(ApiModel):
    """The model to train."""

    from_: ModelFrom = Field(alias="from", description="Where training starts.")


class Columns(ApiModel):
    """Names of the columns that hold the parts of a row."""

    prompt: Text | None = Field(None, description="Column with what the user says.")
    completion: Text | None = Field(None, description="Column with what the model should answer.")
    text: Text | None = Field(None, description="Column with plain text, for pretraining.")
    messages: Text | None = Field(
        None, description="Column with a conversation: a list of role and content, or ShareGPT's from and value."
    )
    tools: Text | None = Field(None, description="Column with the tools of a conversation: a list of JSON schemas.")


class DataSource(ApiModel):
    """A file of rows."""

    name: Name = Field(description="Name of the source; rows are traced by it.")
    uri: StorageUri = Field(description="The file.")
    format: Literal["csv", "jsonl", "parquet"] | None = Field(None, description="Its format; by its ending if absent.")
    columns: Columns = Field(
        default=Columns(),
        description="Columns to read; by default those called prompt and completion, messages, conversations, or text.",
    )


def _of_augment(field: str) -> dict[str, str]:
    return rule(f"self.type == 'augment' || !has(self.{field})", f"{field} goes with augment", f".{field}")


class DataStep(ApiModel):
    """One step. Steps run in the order given; augment runs on the training rows alone, after they are divided."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule("self.type != 'augment' || has(self.fraction)", "augment needs a fraction", ".fraction"),
            _of_augment("fraction"),
            _of_augment("seed"),
            _of_augment("templates"),
        )
    )
    type: Literal["normalise", "filterLength", "dedupExact", "dedupNear", "augment"] = Field(
        description="What the step does."
    )
    min_characters: int = Field(
        1, ge=0, le=1_000_000, description="filterLength: rows with a shorter text are dropped."
    )
    max_characters: int = Field(
        100_000, ge=1, le=10_000_000, description="filterLength: rows with a longer text are dropped."
    )
    threshold: Fraction = Field(
        0.85,
        description="dedupNear: Jaccard similarity of shingles from which a row of the same answer is a copy; "
        "what many rows have in common is left aside.",
    )
    fraction: float | None = Field(
        None,
        gt=0,
        le=10,
        description="augment: changed copies that are made of a training row, on average: typos, case, punctuation, a "
        "word less, two words swapped. The answer stays.",
    )
    seed: int | None = Field(None, ge=0, le=2_147_483_647, description="augment: seed of the changes; 0 if absent.")
    templates: StorageUri | None = Field(
        None,
        description="augment: a file of templates with {prompt} where the prompt goes, one per line; in a .jsonl file "
        "each is the `template` of an object. They are used beside the other changes.",
    )


HELD_OUT_PERCENT = 10  # where neither the job nor the version that it starts from says otherwise
DEFAULT_STEPS = [DataStep(type="normalise"), DataStep(type="dedupExact"), DataStep(type="dedupNear")]


class FeedbackData(ApiModel):
    """Corrections that users gave to a service."""

    service: Name = Field(description="InferenceService of this namespace.")
    max_rows: int = Field(100_000, ge=1, le=10_000_000, description="At most this many rows, newest first.")
    max_rows_per_user: int = Field(1000, ge=1, le=1_000_000, description="A cap on one user's share.")


class Replay(ApiModel):
    """Old rows mixed in, so that what was learned is kept."""

    sources: list[DataSource] = Field(
        min_length=1,
        max_length=32,
        description="The old rows.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    fraction: Fraction = Field(1.0, description="Share of the old training rows that is trained on again.")


class DataSpec(ApiModel):
    """What is trained on."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "size(self.sources) > 0 || has(self.feedback)",
                "give at least one source, or feedback of a service",
                ".sources",
            ),
            rule(
                "self.steps.filter(step, step.type == 'augment').size() == 0 || "
                "(self.steps.filter(step, step.type == 'augment').size() == 1 && "
                "self.steps[self.steps.size() - 1].type == 'augment')",
                "augment comes last, and once",
                ".steps",
            ),
        )
    )
    sources: list[DataSource] = Field(
        default=[],
        max_length=32,
        description="Files of rows.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    feedback: FeedbackData | None = Field(None, description="Rows from users' corrections.")
    steps: list[DataStep] = Field(default=DEFAULT_STEPS, max_length=16, description="Cleaning steps, in order.")
    replay: Replay | None = Field(None, description="Old rows to mix in.")
    held_out_percent: int | None = Field(
        None,
        ge=0,
        le=50,
        description="Share of rows that are never trained on, by this version or any that comes of it; they feed the "
        "gates. If absent, what the version that training starts from inherited, or 10. Below that version it can't be "
        "changed: another share is refused.",
    )

    @property
    def files(self) -> list[str]:
        """URIs of all files that are read for it, feedback's aside."""
        replayed = self.replay.sources if self.replay else []
        templates = [step.templates for step in self.steps if step.templates is not None]
        return [*(source.uri for source in [*self.sources, *replayed]), *templates]


class Adapter(ApiModel):
    """Parameter-efficient fine-tuning."""

    type: Literal["none", "lora"] = Field("none", description="none trains all weights.")
    r: int = Field(16, ge=1, le=1024, description="LoRA rank.")
    lora_alpha: int = Field(32, ge=1, le=4096, description="LoRA scaling numerator.")
    lora_dropout: Fraction = Field(0.0, description="Dropout on the adapter's input.")
    target_modules: list[Annotated[str, Field(max_length=128)]] = Field(
        default=["all-linear"], max_length=32, description="Modules that get an adapter."
    )


class TrainingSpec(ApiModel):
    """How the model is trained. Names follow TRL and Hugging Face."""

    method: Literal["pretrain", "sft"] = Field("sft", description="pretrain: next token on text. sft: on examples.")
    adapter: Adapter = Field(default=Adapter(), description="Full weights, or LoRA.")
    loss_on: Literal["all", "completion"] = Field("completion", description="Tokens that count in the loss (sft).")
    num_train_epochs: float = Field(
        3.0,
        gt=0,
        le=1000,
        description="Passes over the training rows: each row is trained on this often. What a pass leaves over of a "
        "batch begins the next pass.",
    )
    max_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="Stop after this many steps, whatever the epochs."
    )
    train_batch_size: int = Field(64, ge=1, le=65_536, description="Rows per step, over all workers.")
    per_device_train_batch_size: int = Field(
        32,
        ge=1,
        le=4096,
        description="Rows that a worker takes through the model at once, at most: fewer where its memory is known and "
        "holds no more. The rest is accumulated, which changes no result.",
    )
    learning_rate: float = Field(2e-5, gt=0, le=10, description="Peak learning rate of AdamW.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "one_cycle"] = Field(
        "cosine", description="How the learning rate goes on after its rise."
    )
    warmup_ratio: Fraction = Field(0.03, description="Share of steps in which the rate rises.")
    weight_decay: float = Field(0.0, ge=0, le=10, description="Decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, le=1000, description="Gradients are clipped to this norm.")
    max_length: int = Field(
        512,
        ge=8,
        le=1_048_576,
        description="Tokens an example may have. A longer text is cut into pieces. An answer is never cut: one that "
        "ends beyond is left out, and counted in status.data.",
    )
    packing: bool = Field(False, description="Put several rows into one sequence of max_length tokens.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations: less memory, a fifth slower.")
    bf16: bool | None = Field(
        None, description="Compute in bfloat16 with float32 master weights; if absent, true with GPUs and false on CPU."
    )
    save_steps: int = Field(100, ge=1, le=1_000_000, description="Steps between checkpoints: what a failure can cost.")
    save_total_limit: int = Field(2, ge=1, le=100, description="Checkpoints that are kept.")
    seed: int = Field(0, ge=0, le=2_147_483_647, description="Seed of order and initialisation.")


class Compute(ApiModel):
    """Where it is trained."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "self.gpusPerNode == 0 || self.workersPerNode == 1 || self.workersPerNode == self.gpusPerNode",
                "leave workersPerNode at 1, or give one worker per GPU",
                ".workersPerNode",
            ),
        )
    )
    nodes: int = Field(1, ge=1, le=512, description="Pods, each on a node of its own; the model is sharded over them.")
    gpus_per_node: int = Field(0, ge=0, le=16, description="GPUs per pod; 0 trains on CPU.")
    workers_per_node: int = Field(
        1, ge=1, le=16, description="Training processes per pod on CPU; with GPUs it is one per GPU."
    )
    gpu_memory: Quantity | None = Field(
        None,
        description="Memory of one GPU, such as 80Gi: the plan refuses what can't fit and picks the rows that a worker "
        "takes at once. If absent, the label nvidia.com/gpu.memory of the nodes says it; if they lack it, nothing is "
        "refused.",
    )
    resources: Resources = Field(default=Resources(), description="Resources of each pod, GPUs aside.")
    queue_name: QueueName | None = Field(
        None, description="Kueue queue that admits the pods. Without Kueue it does nothing."
    )
    startup_timeout_seconds: int = Field(
        600, ge=10, le=86_400, description="Seconds within which all nodes must have joined."
    )
    backoff_limit: int = Field(3, ge=0, le=100, description="Retries of each pod before the job fails.")
    active_deadline_seconds: int = Field(604_800, ge=60, le=31_536_000, description="Seconds that one stage may take.")


class Evaluation(EvaluationSettings):
    """The gates that the version must pass."""

    suites: list[SuiteSpec] = Field(
        default=[],
        max_length=16,
        description="All are required.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class Output(ApiModel):
    """What the version is called."""

    family: Family = Field(description="Versions of a family replace each other; services follow a family.")


class FineTuneJobSpec(ApiModel):
    """Desired training."""

    IMMUTABLE_BUT: ClassVar[tuple[str, ...]] = ("suspend",)
    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "self.training.method == 'pretrain' || !has(self.model.from.config)",
                "model.from.config needs training.method: pretrain",
                ".training.method",
            ),
            rule(
                "self.training.adapter.type == 'none' || !has(self.model.from.config)",
                "an adapter needs trained weights below it: leave it out with model.from.config",
                ".training.adapter",
            ),
        )
    )
    model: ModelSpec = Field(description="The model to train.")
    data: DataSpec = Field(description="What is trained on.")
    training: TrainingSpec = Field(default=TrainingSpec(), description="How it is trained.")
    compute: Compute = Field(default=Compute(), description="Where it is trained.")
    storage: StorageUri = Field(description="Folder for data, checkpoints and versions.")
    evaluation: Evaluation = Field(default=Evaluation(), description="The gates of the version.")
    output: Output = Field(description="What the version is called.")
    pod_overrides: PodOverrides = Field(default=PodOverrides(), description="What a platform sets on the pods.")
    suspend: bool = Field(False, description="Stop and keep the checkpoints; false resumes from the last one.")


class Progress(ApiModel):
    """How far training has come. For people: it decides nothing."""

    step: int = Field(0, description="Optimiser steps done.")
    total_steps: int = Field(0, description="Steps in all.")
    percent: int = Field(0, description="Share done, in percent.")
    eta_seconds: int | None = Field(None, description="Seconds left at the current pace.")
    loss: str | None = Field(None, max_length=32, description="Mean loss per token of the last steps.")
    tokens_per_second: int | None = Field(None, description="Tokens per second over all workers.")
    eta: str | None = Field(None, max_length=32, description="Time left, for people: 1h05m.")
    updated: Timestamp | None = Field(None, description="When this was read.")


class PlanStatus(ApiModel):
    """How the model is spread, and what it takes."""

    strategy: str = Field(max_length=63, description="How parameters are spread over the workers.")
    world_size: int = Field(description="Training processes in all.")
    parameters: int = Field(description="Parameters of the model.")
    trainable_parameters: int = Field(description="Parameters that are trained.")
    total_steps: int = Field(description="Optimiser steps.")
    gradient_accumulation_steps: int = Field(description="Forward passes per step on each worker.")
    memory_bytes_per_worker: dict[str, int] = Field(
        default={},
        max_length=16,
        description="Estimate by part: of training weights, gradients, optimizer and so on; of loading; total.",
    )
    available_bytes_per_worker: int | None = Field(
        None, description="Memory that the pod's limit leaves for one worker."
    )


class DataStatus(ApiModel):
    """What prepare found."""

    uri: StorageUri = Field(description="Where the prepared rows lie.")
    digest: Digest = Field(description="Their digest.")
    train_rows: int = Field(description="Rows that are trained on.")
    held_out_rows: int = Field(description="Rows that are held out of training.")
    feedback_rows: int = Field(0, description="Training rows that came from feedback.")
    replay_rows: int = Field(0, description="Training rows that are replayed.")
    augmented_rows: int = Field(0, description="Training rows that augment made of others.")
    dropped_rows: int = Field(0, description="Rows that were read, and are neither trained on nor held out.")
    dropped: dict[str, int] = Field(
        default={}, max_length=24, description="The dropped rows by reason; see docs/data.md for what each means."
    )
    reshaped: dict[str, int] = Field(
        default={},
        max_length=8,
        description="Rows that are trained on otherwise than they came, by how: texts cut into pieces, conversations "
        "split into one example an answer, or shortened by the answers that don't fit into maxLength.",
    )
    notes: list[Annotated[str, Field(max_length=200)]] = Field(
        default=[], max_length=4, description="What to know before this model is trained and served."
    )
    tokens: int = Field(0, description="Tokens in the training rows.")


FineTuneJobPhase = Literal["Pending", "Preparing", "Planning", "Training", "Suspended", "Succeeded", "Failed"]
ENDED: tuple[FineTuneJobPhase, ...] = ("Succeeded", "Failed")  # a job stays in these


class FineTuneJobStatus(ApiModel):
    """The last observed state."""

    observed_generation: int | None = Field(None, description="The generation of the spec that was looked at.")
    phase: FineTuneJobPhase | None = Field(None, description="Where the job is.")
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        description="See docs/conditions.md.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    data: DataStatus | None = Field(None, description="What prepare found.")
    plan: PlanStatus | None = Field(None, description="How the model is spread, and what it takes.")
    progress: Progress | None = Field(None, description="How far training has come.")
    attempt: int = Field(0, description="How often the train stage was started by suspend and resume.")
    version: Name | None = Field(None, description="The ModelVersion that came of it.")
    started: Timestamp | None = Field(None, description="When work began.")
    finished: Timestamp | None = Field(None, description="When the job ended.")


class FineTuneJob(ApiModel):
    """Fine-tunes (or pretrains) a language model and leaves a ModelVersion."""

    KIND: ClassVar[str] = "FineTuneJob"
    PLURAL: ClassVar[str] = "finetunejobs"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("ftj",)
    COLUMNS: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("Phase", "string", ".status.phase"),
        ("Progress", "integer", ".status.progress.percent"),
        ("ETA", "string", ".status.progress.eta"),
        ("Loss", "string", ".status.progress.loss"),
        ("Nodes", "integer", ".spec.compute.nodes"),
        ("Version", "string", ".status.version"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    spec: FineTuneJobSpec = Field(description="Desired training.")
    status: FineTuneJobStatus = Field(default=FineTuneJobStatus(), description="The last observed state.")
