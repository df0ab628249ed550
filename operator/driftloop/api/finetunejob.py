"""FineTuneJob: trains a model on data and creates a ModelVersion."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from driftloop.api.base import (
    NVIDIA_GPU,
    ApiModel,
    Condition,
    Digest,
    Family,
    ForeignRef,
    Fraction,
    GpuResource,
    Name,
    ObjectRef,
    PodOverrides,
    Quantity,
    QueueName,
    Resources,
    StorageUri,
    SubdomainName,
    Text,
    Timestamp,
    cel,
    exactly_one,
    rule,
)
from driftloop.api.engine import EnvVar
from driftloop.api.evaluation import EvaluationSettings
from driftloop.api.suite import SuiteSpec
from driftloop.api.template import ChatTemplateKwargs, ChatTemplateText


class NewTokenizer(ApiModel):
    """A byte-level BPE tokenizer to train on the job's data."""

    vocab_size: int = Field(2048, ge=300, le=262_144, description="Size of the vocabulary, including special tokens.")


class NewModel(ApiModel):
    """A new model with random weights, for `method: pretrain`."""

    architecture: dict[str, Any] = Field(
        description="A transformers configuration: model_type and the fields of that type (hidden_size, "
        "num_hidden_layers …).",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    tokenizer: NewTokenizer = Field(default=NewTokenizer(vocab_size=2048), description="The tokenizer to train.")


class ModelFrom(ApiModel):
    """The model that training starts from. Exactly one of uri, versionRef, family, serving and config is set."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("uri", "versionRef", "family", "serving", "config"),
            rule("!has(self.digest) || has(self.uri)", "digest needs uri: set uri, or remove digest", ".digest"),
            rule(
                "!has(self.digest) || !has(self.uri) || !self.uri.startsWith('hf://')",
                "a repository of the Hub has no digest: remove it, and write the commit, hf://ORG/MODEL@COMMIT",
                ".digest",
            ),
        )
    )
    uri: StorageUri | None = Field(None, description="Folder of a Hugging Face model (config, tokenizer, safetensors).")
    digest: Digest | None = Field(
        None,
        description="Content digest of the folder at `uri`. It is checked before use. A job without it shows the "
        "digest in status.data.modelDigest. Of hf:// write the commit instead: hf://ORG/MODEL@COMMIT.",
    )
    version_ref: ObjectRef | None = Field(None, description="A ModelVersion in the same namespace.")
    family: Family | None = Field(
        None,
        description="The last Approved version of this family. If there is none, the last version that awaits "
        "approval. The job waits until one exists.",
    )
    serving: ObjectRef | None = Field(None, description="The stable version of this InferenceService.")
    config: NewModel | None = Field(
        None, description="A new model: it is initialised at random, and its tokenizer is trained."
    )


class ModelSpec(ApiModel):
    """The model to train."""

    from_: ModelFrom = Field(alias="from", description="The model that training starts from.")


class Columns(ApiModel):
    """Names of the columns with the parts of a row."""

    prompt: Text | None = Field(None, description="Column with the user's text.")
    completion: Text | None = Field(None, description="Column with the answer that the model should give.")
    chosen: Text | None = Field(
        None,
        description="Column with the better of two answers, for dpo: a text, or messages. Without prompt, the whole "
        "conversation with this answer.",
    )
    rejected: Text | None = Field(
        None, description="Column with the worse answer to the same prompt, for dpo, in the same form as chosen."
    )
    label: Text | None = Field(
        None, description="Column that shows whether the answer is a good one, for kto: true or false, or 1 or 0."
    )
    text: Text | None = Field(None, description="Column with plain text, for pretraining.")
    messages: Text | None = Field(
        None,
        description="Column with a conversation: a list of role and content, or of from and value as in ShareGPT.",
    )
    tools: Text | None = Field(None, description="Column with the tools of a conversation: a list of JSON schemas.")


class DataSource(ApiModel):
    """A file of rows."""

    name: Name = Field(description="Name of the source. It is recorded with each row.")
    uri: StorageUri = Field(description="The file of rows.")
    format: Literal["csv", "jsonl", "parquet"] | None = Field(
        None, description="Format of the file. If absent, the file name extension decides."
    )
    columns: Columns = Field(
        default=Columns(),
        description="Columns to read. By default: prompt and completion, messages, conversations, or text; for dpo "
        "chosen and rejected, and prompt if there is such a column; for kto a label beside an answer.",
    )


def _only_augment(field: str) -> dict[str, str]:
    return rule(
        f"self.type == 'augment' || !has(self.{field})", f"{field} needs type: augment, or remove it", f".{field}"
    )


class DataStep(ApiModel):
    """One cleaning step. Steps run in the order of the list. augment runs last, on training rows only."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule("self.type != 'augment' || has(self.fraction)", "augment needs a fraction: set fraction", ".fraction"),
            _only_augment("fraction"),
            _only_augment("seed"),
            _only_augment("templates"),
        )
    )
    type: Literal["normalise", "filterLength", "dedupExact", "dedupNear", "augment"] = Field(
        description="What the step does."
    )
    min_characters: int = Field(1, ge=0, le=1_000_000, description="filterLength: drop rows with a shorter text.")
    max_characters: int = Field(100_000, ge=1, le=10_000_000, description="filterLength: drop rows with a longer text.")
    threshold: Fraction = Field(
        0.85,
        description="dedupNear: a row with the same answer counts as a copy from this Jaccard similarity of shingles. "
        "Shingles that many rows have in common are ignored.",
    )
    fraction: float | None = Field(
        None,
        gt=0,
        le=10,
        description="augment: mean number of changed copies per training row. A copy has typos, other case or "
        "punctuation, a missing word, or two swapped words. The answer stays the same.",
    )
    seed: int | None = Field(None, ge=0, le=2_147_483_647, description="augment: seed of the changes. If absent, 0.")
    templates: StorageUri | None = Field(
        None,
        description="augment: a file of templates, one per line, each with {prompt} in place of the prompt. In a "
        ".jsonl file each line is an object with the field `template`. Templates are used in addition to the other "
        "changes.",
    )


HELD_OUT_PERCENT = 10  # if neither the job nor the version that it starts from sets a share
DEFAULT_STEPS = [DataStep(type="normalise"), DataStep(type="dedupExact"), DataStep(type="dedupNear")]


class FeedbackData(ApiModel):
    """Ratings and corrections that users sent to a service."""

    service: Name = Field(description="InferenceService in the same namespace.")
    max_rows: int = Field(100_000, ge=1, le=10_000_000, description="Maximum number of rows. The newest are used.")
    max_rows_per_user: int = Field(1000, ge=1, le=1_000_000, description="Maximum number of rows per user.")


class Replay(ApiModel):
    """Old rows that are trained on again, so that the model does not forget them."""

    sources: list[DataSource] = Field(
        min_length=1,
        max_length=32,
        description="The old rows.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    fraction: Fraction = Field(1.0, description="Share of the old training rows that are trained on again.")


class DataSpec(ApiModel):
    """The rows to train on."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "size(self.sources) > 0 || has(self.feedback)",
                "give at least one source, or set feedback",
                ".sources",
            ),
            rule(
                "self.steps.filter(step, step.type == 'augment').size() == 0 || "
                "(self.steps.filter(step, step.type == 'augment').size() == 1 && "
                "self.steps[self.steps.size() - 1].type == 'augment')",
                "augment must be the last step, and occur once",
                ".steps",
            ),
        )
    )
    sources: list[DataSource] = Field(
        default=[],
        max_length=32,
        description="Files with rows.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    feedback: FeedbackData | None = Field(None, description="Use users' ratings and corrections as rows.")
    steps: list[DataStep] = Field(default=DEFAULT_STEPS, max_length=16, description="Cleaning steps, in order.")
    replay: Replay | None = Field(None, description="Old rows to add.")
    held_out_percent: int | None = Field(
        None,
        ge=0,
        le=50,
        description="Percent of rows that are held out: neither this version nor any version trained from it is "
        "trained on them. The gates use them. If absent, the share of the version that training starts from, or 10. "
        "Another share than that version's is refused.",
    )

    @property
    def files(self) -> list[str]:
        """URIs of all files to read, without feedback."""
        replayed = self.replay.sources if self.replay else []
        templates = [step.templates for step in self.steps if step.templates is not None]
        return [*(source.uri for source in [*self.sources, *replayed]), *templates]


class Adapter(ApiModel):
    """Parameter-efficient fine-tuning."""

    type: Literal["none", "lora", "qlora", "osf"] = Field(
        "none",
        description="none trains all weights. lora trains an adapter. qlora does too, with the matrices of all linear "
        "layers but the output layer rounded to 4 bits (NF4); the version has the rounded matrices with the adapter "
        "merged into them. osf trains the weaker directions of each matrix, "
        "and keeps the stronger ones as they are, so that the model forgets less (orthogonal subspace fine-tuning).",
    )
    effective_rank: float = Field(
        0.5, gt=0, lt=1, description="For osf: share of each matrix's directions that are kept."
    )
    r: int = Field(16, ge=1, le=1024, description="LoRA rank.")
    lora_alpha: int = Field(32, ge=1, le=4096, description="LoRA scaling numerator.")
    lora_dropout: Fraction = Field(0.0, description="Dropout on the adapter's input.")
    target_modules: list[Annotated[str, Field(max_length=128)]] = Field(
        default=["all-linear"], max_length=32, description="Modules that get an adapter; for osf linear layers."
    )


class Validation(ApiModel):
    """The loss on training rows that are set aside, while the model is trained on the others."""

    percent: int = Field(
        5,
        ge=1,
        le=50,
        description="Percent of the training rows that are set aside: they are not trained on. In all jobs of an "
        "ancestry they are the same rows. They are not the held-out rows, which only the gates use.",
    )
    max_rows: int = Field(
        1000, ge=1, le=1_000_000, description="Maximum number of rows that are set aside; the others are trained on."
    )
    every_steps: int = Field(
        100, ge=1, le=1_000_000, description="Steps between validations. The last step is always followed by one."
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Stop the training after this many validations in a row without a lower loss than the lowest so "
        "far. If absent, all steps are trained.",
    )
    keep: Literal["last", "best"] = Field(
        "last",
        description="The weights that become the version: those after the last step, or those of the validation with "
        "the lowest loss. With best, a checkpoint is written after each validation that has the lowest loss so far, "
        "and the best one is kept beside the last saveTotalLimit.",
    )


TrainingMethod = Literal["pretrain", "sft", "dpo", "kto"]
TrackerName = Literal["mlflow", "tensorboard", "wandb"]


class Tracking(ApiModel):
    """What the trackers of `reportTo` need."""

    uri: str | None = Field(
        None,
        pattern=r"^https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._~-]+)*/?$",
        max_length=512,
        description="URL of the MLflow server, without user name, password and query.",
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Name of the experiment in MLflow, and of the project in Weights & Biases. If absent, the family.",
    )
    secret: ForeignRef | None = Field(
        None,
        description="Secret with the trackers' credentials. Its keys become environment variables of the training "
        "pods: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; WANDB_API_KEY, and "
        "WANDB_BASE_URL for another server.",
    )


class TrainingSpec(ApiModel):
    """How the model is trained. Field names follow TRL and Hugging Face."""

    # The API server checks a rule on defaults of the defaults, too, where the fields are still absent.
    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "has(self.entrypoint) || !has(self.image)",
                "image is only for a training of your own: set entrypoint, or remove image",
                ".image",
            ),
            rule(
                "!has(self.entrypoint) || !has(self.validation)",
                "a training of your own validates itself: remove validation, or entrypoint",
                ".validation",
            ),
            rule(
                "has(self.entrypoint) || !has(self.code)",
                "code is only for a training of your own: set entrypoint, or remove code",
                ".code",
            ),
            rule(
                "!has(self.code) || self.code.startsWith('pvc://')",
                "code must be on a claim: pvc://claim/path",
                ".code",
            ),
            rule(
                "!has(self.reportTo) || !has(self.tracking) || !('mlflow' in self.reportTo) || has(self.tracking.uri)",
                "reportTo mlflow needs the URL of its server: set tracking.uri",
                ".tracking",
            ),
            rule(
                "!has(self.reportTo) || !has(self.tracking) || !has(self.tracking.uri) || 'mlflow' in self.reportTo",
                "tracking.uri is only for mlflow: add mlflow to reportTo, or remove tracking.uri",
                ".reportTo",
            ),
            rule(
                "!has(self.reportTo) || !has(self.tracking) || self.reportTo.size() > 0 || "
                "!(has(self.tracking.experiment) || has(self.tracking.secret))",
                "tracking is only for the trackers in reportTo: list one, or remove tracking",
                ".reportTo",
            ),
        )
    )
    method: TrainingMethod = Field(
        "sft",
        description="pretrain: train on plain text. sft: train on examples. dpo: train on pairs of a better and a "
        "worse answer (direct preference optimisation). kto: train on answers that are each labelled as good or bad "
        "(Kahneman-Tversky optimisation).",
    )
    chat_template: ChatTemplateText | None = Field(
        None,
        description="Chat template (Jinja) to train with, instead of the tokenizer's. The version keeps it, so its "
        "services and later trainings use it too.",
    )
    chat_template_kwargs: ChatTemplateKwargs | None = Field(
        None,
        description="Values for variables of the chat template, such as enable_thinking: false. The version keeps them "
        "as the template's defaults.",
    )
    beta: float = Field(
        0.1,
        gt=0,
        le=10,
        description="For dpo and kto: how strongly the model is held near the one that training starts from. Smaller "
        "values let it move further.",
    )
    desirable_weight: float = Field(
        1.0, gt=0, le=1000, description="For kto: weight of the loss of good answers, if there are fewer of them."
    )
    undesirable_weight: float = Field(
        1.0, gt=0, le=1000, description="For kto: weight of the loss of bad answers, if there are fewer of them."
    )
    adapter: Adapter = Field(default=Adapter(), description="Train all weights, or a part of them.")
    loss_on: Literal["all", "completion"] = Field("completion", description="Tokens that count in the loss, for sft.")
    num_train_epochs: float = Field(
        3.0,
        gt=0,
        le=1000,
        description="Number of passes over the training rows. Rows that don't fill a batch at the end of a pass go "
        "into the first batch of the next pass.",
    )
    max_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="Stop after this many steps, even if epochs are left."
    )
    train_batch_size: int = Field(64, ge=1, le=65_536, description="Rows (with dpo: pairs) per step, over all workers.")
    per_device_train_batch_size: int = Field(
        32,
        ge=1,
        le=4096,
        description="Maximum number of rows (with dpo: pairs) per forward pass of a worker. Fewer are taken if the "
        "memory is known and too small. Gradients are accumulated to trainBatchSize; the result is the same.",
    )
    learning_rate: float = Field(
        2e-5,
        gt=0,
        le=10,
        description="Peak learning rate of AdamW. For dpo and kto lower: about 1e-6 for all weights, 1e-5 for an "
        "adapter.",
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "one_cycle"] = Field(
        "cosine", description="Schedule of the learning rate after warm-up."
    )
    warmup_ratio: Fraction = Field(0.03, description="Share of steps in which the learning rate rises.")
    weight_decay: float = Field(0.0, ge=0, le=10, description="Decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, le=1000, description="Gradients are clipped to this norm.")
    max_length: int = Field(
        512,
        ge=8,
        le=1_048_576,
        description="Maximum number of tokens per example. A longer text is split into pieces. An answer is never cut: "
        "an answer that ends later is left out and counted in status.data.",
    )
    packing: bool = Field(False, description="Put several rows into one sequence of maxLength tokens.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations: uses less memory, and is a fifth slower."
    )
    logits_memory: Quantity | None = Field(
        None,
        description="Most memory of the logits of a forward pass in float32, such as 64Mi; 256Mi if absent. Where they "
        "take more, the loss is computed for some tokens at a time, at least 64. Less memory is slower; the result is "
        "the same. A few types of models, such as gemma2 and cohere, need all logits, so it has no effect on them.",
    )
    bf16: bool | None = Field(
        None,
        description="Compute in bfloat16 with float32 master weights. If absent, true with GPUs and false on CPU. With "
        "false, also GPUs multiply in true float32, never in TF32.",
    )
    compile: bool | None = Field(
        None,
        description="Compile each decoder layer, and the loss. The first steps take some ten seconds longer, and the "
        "others less. If absent, true with GPUs for what is tested (docs/architecture.md), and false on CPU.",
    )
    float8: bool = Field(
        False,
        description="Multiply with the matrices of the linear layers, but for the output layer, in float8 (e4m3, a "
        "scale per row); gradients of the matrices are computed in bfloat16. For NVIDIA GPUs of compute capability "
        "8.9 or higher (Ada, Hopper, Blackwell), without an adapter, and compiled. The losses differ a little from "
        "those of bfloat16.",
    )
    save_steps: int = Field(
        100, ge=1, le=1_000_000, description="Steps between checkpoints. A failure loses at most this many."
    )
    save_total_limit: int = Field(2, ge=1, le=100, description="Number of checkpoints to keep.")
    validation: Validation | None = Field(
        None,
        description="Set training rows aside, and compute the loss on them while training. If absent, all rows are "
        "trained on, and all steps are trained.",
    )
    seed: int = Field(0, ge=0, le=2_147_483_647, description="Seed of the order of rows and of the initialisation.")
    entrypoint: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$",
        max_length=256,
        description="A training of your own, module:function, which every worker calls with a "
        "driftloop_trainer.user.Context instead of the built-in loop. The module is in image or code.",
    )
    image: str | None = Field(
        None,
        pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$",
        max_length=512,
        description="Image of the training pods for entrypoint: the trainer image with what the module needs.",
    )
    code: StorageUri | None = Field(
        None, description="Folder with the module of entrypoint on a claim: pvc://claim/path. It is mounted read-only."
    )
    report_to: list[TrackerName] = Field(
        default=[],
        max_length=3,
        description="Trackers that get the loss, learning rate and speed of each step. tensorboard: event files in the "
        "folder of the run, storage/runs/UID. wandb: Weights & Biases; without WANDB_API_KEY in tracking.secret an "
        "offline run in the same folder. A tracker that does not answer never holds up the training.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    tracking: Tracking = Field(default=Tracking(), description="What the trackers of reportTo need.")


class Parallelism(ApiModel):
    """How the workers divide the model, besides its shards."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "!has(self.stagesPerWorker) || self.stagesPerWorker == 1 || (has(self.pipeline) && self.pipeline > 1)",
                "stagesPerWorker needs pipeline: set pipeline to 2 or more, or remove stagesPerWorker",
                ".stagesPerWorker",
            ),
        )
    )

    context: int = Field(
        1,
        ge=1,
        le=64,
        description="Number of workers that share the tokens of the same rows. Each computes a part of the tokens, and "
        "for attention they exchange tokens for heads in every layer: use it if one long row does not fit, on workers "
        "with a fast network. It must divide the model's attention heads and key-value heads; with tensor, those of "
        "each worker.",
    )
    data_replicate: int = Field(
        1,
        ge=1,
        le=512,
        description="Number of groups of workers that each have the whole model, in shards. Shards are only exchanged "
        "within a group, and the gradients are added up between the groups: use it if a group of nodes has enough "
        "memory for the model, and the network between the groups is slow. It must divide nodes, or be a multiple of "
        "nodes that divides the workers of each node into equal groups.",
    )
    pipeline: int = Field(
        1,
        ge=1,
        le=64,
        description="Number of stages into which the layers are divided. Their workers read the same rows. Stages are "
        "on different nodes if there are several, and each sends activations only to the next one: use it if the "
        "network between the nodes is slow. It times dataReplicate, context and tensor must divide the number of "
        "workers. A batch is cut into at least as many micro-batches as there are stages, if it has the rows: with "
        "more of them, stages wait less.",
    )
    stages_per_worker: int = Field(
        1,
        ge=1,
        le=16,
        description="With pipeline: number of stages per worker. With 2 or more, the layers are divided into "
        "pipeline x stagesPerWorker stages, and each worker has several that are not adjacent (interleaved 1F1B). The "
        "model must have at least as many layers. "
        "Workers then wait less for each other at the start and the end of a batch, send more, and keep more "
        "activations.",
    )
    tensor: int = Field(
        1,
        ge=1,
        le=16,
        description="Number of workers that share each matrix and read the same rows. It must divide the workers of a "
        "node. Each worker computes a part of every layer, and exchanges activations in every layer: use it on GPUs "
        "with NVLink, if one row does not fit into a GPU or there are more GPUs than rows per batch.",
    )


class Elastic(ApiModel):
    """How a training goes on when nodes are lost."""

    min_nodes: int = Field(1, ge=1, le=512, description="Smallest number of nodes to train on.")
    wait_seconds: int = Field(
        120,
        ge=0,
        le=86_400,
        description="Seconds that a lost node has to come back, or its pod to start elsewhere. Then training goes on "
        "with the nodes that are left.",
    )


class Compute(ApiModel):
    """Pods and hardware for training."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "self.gpusPerNode == 0 || self.workersPerNode == 1 || self.workersPerNode == self.gpusPerNode",
                "workersPerNode must be 1, or the same as gpusPerNode: one worker per GPU",
                ".workersPerNode",
            ),
            rule(
                "!has(self.gpuClaimTemplate) || self.gpusPerNode > 0",
                "gpuClaimTemplate needs gpusPerNode: set it to the number of GPUs that the template claims",
                ".gpusPerNode",
            ),
            rule(
                "!has(self.env) || self.env.all(e, !e.name.startsWith('RAY_'))",
                "the operator and Ray set variables that begin with RAY_: remove them",
                ".env",
            ),
            rule(
                "!has(self.elastic) || !has(self.elastic.minNodes) || self.elastic.minNodes <= self.nodes",
                "elastic.minNodes is more than nodes: lower it",
                ".elastic",
            ),
            rule(
                "!has(self.elastic) || !has(self.parallelism) || ["
                "has(self.parallelism.pipeline) ? self.parallelism.pipeline : 1, "
                "has(self.parallelism.context) ? self.parallelism.context : 1, "
                "has(self.parallelism.dataReplicate) ? self.parallelism.dataReplicate : 1].all(n, n == 1)",
                "elastic is not tested with parallelism.pipeline, context and dataReplicate: remove one of them",
                ".elastic",
            ),
            rule(
                # The API server checks a rule on defaults of the defaults, too, where the field is still absent.
                "!has(self.parallelism) || !has(self.parallelism.tensor) || "
                "(self.gpusPerNode > 0 ? self.gpusPerNode : self.workersPerNode) % self.parallelism.tensor == 0",
                "parallelism.tensor must divide the workers of a node: gpusPerNode, or workersPerNode on CPU",
                ".parallelism",
            ),
            rule(
                "!has(self.parallelism) || !has(self.parallelism.tensor) || !has(self.parallelism.dataReplicate) || "
                "self.nodes % self.parallelism.dataReplicate == 0 || "
                "(self.parallelism.dataReplicate % self.nodes == 0 && "
                "(self.gpusPerNode > 0 ? self.gpusPerNode : self.workersPerNode) % "
                "(self.parallelism.dataReplicate / self.nodes * self.parallelism.tensor) == 0)",
                "parallelism.dataReplicate must divide nodes, or be a multiple of nodes that divides the workers of "
                "each node into equal groups of whole parallelism.tensor",
                ".parallelism",
            ),
            rule(
                "!has(self.parallelism) || !has(self.parallelism.pipeline) || !has(self.parallelism.tensor) || "
                "!has(self.parallelism.context) || !has(self.parallelism.dataReplicate) || "
                "self.nodes * (self.gpusPerNode > 0 ? self.gpusPerNode : self.workersPerNode) % "
                "(self.parallelism.pipeline * self.parallelism.dataReplicate * self.parallelism.context * "
                "self.parallelism.tensor) == 0",
                "parallelism.pipeline x dataReplicate x context x tensor must divide the number of workers: nodes x "
                "gpusPerNode, or nodes x workersPerNode on CPU",
                ".parallelism",
            ),
        )
    )
    nodes: int = Field(
        1, ge=1, le=512, description="Number of pods, each on its own node. The model is sharded over them."
    )
    elastic: Elastic | None = Field(
        None,
        description="Let training go on with fewer than `nodes` nodes when some are lost, and with more after a "
        "checkpoint when they are back. The rows of each step and the result stay the same. If absent, training waits "
        "for all nodes.",
    )
    gpus_per_node: int = Field(0, ge=0, le=16, description="GPUs per pod. 0 trains on CPU.")
    gpu_resource: GpuResource = NVIDIA_GPU
    gpu_claim_template: SubdomainName | None = Field(
        None,
        description="ResourceClaimTemplate of this namespace with the GPUs of one pod, for dynamic resource allocation "
        "in place of gpuResource. gpusPerNode is the number of its GPUs.",
    )
    env: list[EnvVar] = Field(
        default=[],
        max_length=64,
        description="Environment variables of the training pods, such as NCCL_SOCKET_IFNAME or FI_PROVIDER for the "
        "network between nodes.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    workers_per_node: int = Field(
        1, ge=1, le=16, description="Training processes per pod on CPU. With GPUs there is one per GPU."
    )
    parallelism: Parallelism | None = Field(
        None,
        description="How the workers divide the model. If absent, the plan chooses: shards alone if one row fits, with "
        "replicas if fewer nodes hold the model, else the fewest workers per row with which one row fits. "
        "status.plan.reasons says why. With {}, the model is only sharded.",
    )
    gpu_memory: Quantity | None = Field(
        None,
        description="Memory of one GPU, such as 80Gi. The plan refuses a model that does not fit, and chooses the rows "
        "per forward pass of a worker. If absent, it is read from labels of the nodes (nvidia.com/gpu.memory, or "
        "those of Karpenter or GKE); without one, no job is refused.",
    )
    resources: Resources = Field(default=Resources(), description="Resources of each pod, without GPUs.")
    queue_name: QueueName | None = Field(
        None, description="Kueue queue that admits the pods. It has no effect without Kueue."
    )
    startup_timeout_seconds: int = Field(600, ge=10, le=86_400, description="Seconds until all nodes must have joined.")
    grace_period_seconds: int = Field(
        30,
        ge=10,
        le=3600,
        description="Seconds that an evicted or deleted training pod has to write a last checkpoint. The loss of a "
        "node is noticed this much later.",
    )
    backoff_limit: int = Field(3, ge=0, le=100, description="Retries of each pod before the job fails.")
    active_deadline_seconds: int = Field(
        604_800, ge=60, le=31_536_000, description="Maximum duration of one stage, in seconds."
    )

    @property
    def axes(self) -> Parallelism:
        """`parallelism`; shards alone if it is absent."""
        return self.parallelism or Parallelism()


class Evaluation(EvaluationSettings):
    """The gates that the version must pass."""

    suites: list[SuiteSpec] = Field(
        default=[],
        max_length=16,
        description="Suites of the version. The version must pass all of them.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class Output(ApiModel):
    """The version that the job creates."""

    family: Family = Field(
        description="Family of the version. Versions of a family replace each other, and a service serves a family."
    )
    merge_adapter: bool = Field(
        True,
        description="Whether an adapter (lora, qlora) is merged, so that the version is a whole model. With false the "
        "version is the adapter alone: megabytes instead of gigabytes. Pods merge it onto its base when they fetch it, "
        "so the base must stay where it is. After four adapters on a whole model the next version is merged.",
    )


def _columns(condition: str) -> str:
    """A CEL expression: `condition` holds for the columns `c` of every source."""
    of_all = f"sources.map(s, s.columns).all(c, {condition})"
    return f"(self.data.{of_all} && (!has(self.data.replay) || self.data.replay.{of_all}))"


_ONE_ANSWER = _columns("!has(c.chosen) && !has(c.rejected)")
_TWO_ANSWERS = _columns(
    "has(c.chosen) == has(c.rejected) && (has(c.chosen) || !has(c.prompt)) && "
    "!has(c.completion) && !has(c.messages) && !has(c.text)"
)
_NO_LABEL = _columns("!has(c.label)")
_LABELLED = _columns(
    "(has(c.label) || (!has(c.prompt) && !has(c.messages) && !has(c.completion))) && !has(c.text) && "
    "(!has(c.label) || has(c.messages) != has(c.prompt)) && has(c.prompt) == has(c.completion)"
)
_LEFT_TO_PLAN = "!has(self.compute.parallelism)"
_COMPARES = "(self.training.method in ['dpo', 'kto'])"


class FineTuneJobSpec(ApiModel):
    """The training to run."""

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
                "an adapter needs trained weights: remove training.adapter, or start from a model instead of "
                "model.from.config",
                ".training.adapter",
            ),
            rule(
                f"{_COMPARES} || self.training.beta == 0.1",
                "beta is only for methods dpo and kto: remove it",
                ".training.beta",
            ),
            rule(
                "self.training.method == 'kto' || self.training.desirableWeight == 1.0",
                "desirableWeight is only for method kto: remove it",
                ".training.desirableWeight",
            ),
            rule(
                "self.training.method == 'kto' || self.training.undesirableWeight == 1.0",
                "undesirableWeight is only for method kto: remove it",
                ".training.undesirableWeight",
            ),
            rule(
                f"!{_COMPARES} || !self.training.packing",
                "methods dpo and kto compare two texts per row, so rows are not packed: remove packing",
                ".training.packing",
            ),
            rule(
                f"!{_COMPARES} || self.training.lossOn == 'completion'",
                "methods dpo and kto compare answers: remove lossOn",
                ".training.lossOn",
            ),
            rule(
                f"!{_COMPARES} || {_LEFT_TO_PLAN} || "
                "(self.compute.parallelism.tensor == 1 && self.compute.parallelism.pipeline == 1 && "
                "self.compute.parallelism.context == 1)",
                "methods dpo and kto are not tested with compute.parallelism.tensor, pipeline or context: remove it",
                ".training.method",
            ),
            rule(
                "self.training.method != 'dpo' || !has(self.data.feedback)",
                "method dpo needs pairs of answers, but feedback has one answer per question: remove data.feedback, or "
                "use method sft or kto",
                ".training.method",
            ),
            rule(
                f"self.training.method == 'dpo' || {_ONE_ANSWER}",
                "columns chosen and rejected are only for method dpo: name the chosen answers as completion, or set "
                "training.method to dpo",
                ".training.method",
            ),
            rule(
                f"self.training.method != 'dpo' || {_TWO_ANSWERS}",
                "with method dpo a row is a pair of answers: name the columns chosen and rejected, and optionally "
                "prompt and tools",
                ".training.method",
            ),
            rule(
                f"self.training.method == 'kto' || {_NO_LABEL}",
                "column label is only for method kto: remove it, or set training.method to kto",
                ".training.method",
            ),
            rule(
                f"self.training.method != 'kto' || {_LABELLED}",
                "with method kto a row is a labelled answer: name the columns label and either messages or prompt and "
                "completion, and optionally tools",
                ".training.method",
            ),
            rule(
                f"self.training.adapter.type != 'osf' || {_LEFT_TO_PLAN} || "
                "(self.compute.parallelism.tensor == 1 && self.compute.parallelism.pipeline == 1)",
                "adapter osf is not trained with compute.parallelism.tensor or pipeline: remove it",
                ".training.adapter.type",
            ),
            rule(
                f"self.training.adapter.type != 'qlora' || {_LEFT_TO_PLAN} || "
                "(self.compute.parallelism.tensor == 1 && self.compute.parallelism.pipeline == 1)",
                "adapter qlora is not trained with compute.parallelism.tensor or pipeline: remove it",
                ".training.adapter.type",
            ),
            rule(
                "!self.training.float8 || self.compute.gpusPerNode > 0",
                "float8 needs GPUs: set compute.gpusPerNode, or remove float8",
                ".training.float8",
            ),
            rule(
                "!self.training.float8 || self.compute.gpuResource.startsWith('nvidia.com/')",
                "float8 is only for NVIDIA GPUs: remove float8, or set another compute.gpuResource",
                ".training.float8",
            ),
            rule(
                "!self.training.float8 || self.training.adapter.type == 'none'",
                "float8 trains all weights: remove float8, or training.adapter",
                ".training.float8",
            ),
            rule(
                "!self.training.float8 || self.training.method in ['sft', 'pretrain']",
                "float8 is only tested with methods sft and pretrain: remove float8",
                ".training.float8",
            ),
            rule(
                "!self.training.float8 || !has(self.training.compile) || self.training.compile",
                "float8 is slower than bfloat16 without compile: remove compile: false, or float8",
                ".training.float8",
            ),
            rule(
                "!self.training.float8 || !has(self.training.bf16) || self.training.bf16",
                "float8 needs bf16, in which all else is computed: remove bf16: false, or float8",
                ".training.float8",
            ),
            rule(
                "!self.training.float8 || !has(self.training.entrypoint)",
                "a training of your own chooses its precision itself: remove float8, or entrypoint",
                ".training.float8",
            ),
            rule(
                f"!self.training.float8 || {_LEFT_TO_PLAN} || "
                "(self.compute.parallelism.tensor == 1 && self.compute.parallelism.context == 1)",
                "float8 is not exact with compute.parallelism.tensor or context: remove it, or float8",
                ".training.float8",
            ),
            rule(
                "self.output.mergeAdapter || self.training.adapter.type in ['lora', 'qlora']",
                "mergeAdapter: false needs an adapter: set training.adapter.type to lora or qlora, or remove it",
                ".output.mergeAdapter",
            ),
            rule(
                "self.output.mergeAdapter || !has(self.training.entrypoint)",
                "training.entrypoint writes a whole model: remove mergeAdapter: false",
                ".output.mergeAdapter",
            ),
            rule(
                "self.training.adapter.type == 'osf' || self.training.adapter.effectiveRank == 0.5",
                "effectiveRank is only for adapter osf: remove it",
                ".training.adapter.effectiveRank",
            ),
            rule(
                "self.training.adapter.type != 'osf' || (self.training.adapter.r == 16 && "
                "self.training.adapter.loraAlpha == 32 && self.training.adapter.loraDropout == 0.0)",
                "adapter osf has no r, loraAlpha and loraDropout: remove them, or use effectiveRank",
                ".training.adapter",
            ),
            rule(
                f"self.training.adapter.type == 'none' || {_LEFT_TO_PLAN} || self.compute.parallelism.pipeline == 1 || "
                "!self.training.adapter.targetModules.exists(name, name.endsWith('embed_tokens'))",
                "an adapter of embed_tokens is not trained with compute.parallelism.pipeline: remove one of them",
                ".training.adapter.targetModules",
            ),
        )
    )
    model: ModelSpec = Field(description="The model to train.")
    data: DataSpec = Field(description="The rows to train on.")
    training: TrainingSpec = Field(default=TrainingSpec(), description="How the model is trained.")
    compute: Compute = Field(default=Compute(), description="Pods and hardware for training.")
    storage: StorageUri = Field(description="Folder for data, checkpoints and versions.")
    evaluation: Evaluation = Field(default=Evaluation(), description="The gates that the version must pass.")
    output: Output = Field(description="The version that the job creates.")
    pod_overrides: PodOverrides = Field(
        default=PodOverrides(), description="Settings that a platform adds to the pods."
    )
    resume_from: Name | None = Field(
        None,
        description="A Failed FineTuneJob in the same namespace. Training resumes from its last checkpoint, at that "
        "step of this job's plan. model, training.adapter and storage must be the same. Data, compute and the other "
        "settings of the training may differ.",
    )
    suspend: bool = Field(
        False, description="true stops the job and keeps its checkpoints. false resumes from the last checkpoint."
    )


class LastCheckpoint(ApiModel):
    """The last complete checkpoint: a job that is stopped now resumes from it, or from a later one."""

    step: int = Field(description="Optimiser steps that were done.")
    time: Timestamp = Field(description="When it was complete.")


class Progress(ApiModel):
    """Progress of training. It is for people only: no decision depends on it."""

    step: int = Field(0, description="Optimiser steps done, with the skipped ones.")
    total_steps: int = Field(0, description="Total number of steps.")
    skipped_steps: int = Field(
        0,
        description="Steps that changed no weight, as their loss or gradient was not finite. The pods' log names the "
        "rows. Three in a row, or ten in all, end the job.",
    )
    percent: int = Field(0, description="Percent of steps done.")
    eta_seconds: int | None = Field(None, description="Remaining seconds at the current speed.")
    loss: str | None = Field(
        None,
        max_length=32,
        description="Loss of the last step: mean per token; for dpo, mean per pair; for kto, mean per row.",
    )
    validation_loss: str | None = Field(
        None,
        max_length=32,
        description="With training.validation: loss of the last validation, as a mean over the rows that were set "
        "aside; per token, per pair for dpo, per row for kto.",
    )
    best_validation_loss: str | None = Field(None, max_length=32, description="The lowest validation loss so far.")
    best_step: int | None = Field(None, description="Steps that were done at the validation with the lowest loss.")
    reward_accuracy: str | None = Field(
        None,
        max_length=32,
        description="For dpo: share of the last step's pairs in which the chosen answer has become likelier, relative "
        "to the rejected one, than it was when training started. For kto: share of its rows whose answer has become "
        "likelier if it is good, or less likely if it is bad, than the answers of other rows.",
    )
    reward_margin: str | None = Field(
        None,
        max_length=32,
        description="For dpo: beta times the logarithm of how much likelier that is; mean over the last step's pairs. "
        "For kto: beta times the logarithm of that difference; mean over its rows.",
    )
    nodes: int | None = Field(None, description="With compute.elastic: the number of nodes that train now.")
    start_seconds: int | None = Field(
        None,
        description="Seconds from the start of the pod that leads the training until its first step: Ray, the other "
        "pods, the model and the last checkpoint. After a lost pod it is that of the new one.",
    )
    tokens_per_second: int | None = Field(None, description="Tokens per second, summed over all workers.")
    model_flops_utilisation: str | None = Field(
        None,
        max_length=32,
        description="Share of the GPUs' peak in bfloat16 that the model's own arithmetic takes (MFU), such as 0.41. "
        "Absent where the peak of the GPUs or the arithmetic is not known: on CPUs, without bf16, with float8, for "
        "kto, and for mixtures of experts and other kinds of models than dense decoders.",
    )
    eta: str | None = Field(None, max_length=32, description="Remaining time for people, such as 1h05m.")
    peak_memory_bytes_per_worker: dict[str, int] | None = Field(
        None,
        max_length=4,
        description="The most memory that any worker has used so far, in bytes, to compare with "
        "plan.memoryBytesPerWorker. On GPUs: allocated and reserved by torch, which does not include the plan's "
        "runtime. On CPUs: resident, the memory of the process, with its runtime and the pages of libraries.",
    )
    peak_memory: str | None = Field(
        None, max_length=64, description="The same for people, such as 62.10 GiB allocated, 64.52 GiB reserved."
    )
    checkpoint: LastCheckpoint | None = Field(
        None,
        description="The last complete checkpoint. The train Job has it as annotations: driftloop.dev/checkpoint-step "
        "and driftloop.dev/checkpoint-time.",
    )
    updated: Timestamp | None = Field(None, description="When the progress was read.")


GradientReduction = Literal["step", "microBatch"]
CheckpointMode = Literal["asynchronous", "synchronous"]


Attention = Literal["varlen", "perDocument", "mask", "sdpa"]
Kernels = Literal["torch", "compiled", "float8"]


class PlanStatus(ApiModel):
    """How the model is distributed over workers, and the memory that it needs."""

    strategy: str = Field(max_length=63, description="How parameters are distributed over the workers.")
    world_size: int = Field(description="Total number of training processes.")
    parameters: int = Field(description="Number of parameters of the model.")
    trainable_parameters: int = Field(description="Number of parameters that are trained.")
    total_steps: int = Field(description="Number of optimiser steps.")
    per_device_train_batch_size: int | None = Field(
        None, description="Maximum number of rows per forward pass of a worker, at most the spec's."
    )
    gradient_accumulation_steps: int = Field(description="Forward passes per step on each worker.")
    gradient_reduction: GradientReduction = Field(
        "step",
        description="When the workers add up their gradients. Once per step is faster; after every micro-batch, no "
        "worker holds the gradient of the whole model.",
    )
    checkpoints: CheckpointMode = Field(
        "asynchronous",
        description="Whether training goes on while a checkpoint is written. That needs memory of the pod, for a copy "
        "of the trained weights and their optimizer state. If resources.limits has no room for it, training waits.",
    )
    compile: bool = Field(False, description="Whether each decoder layer is compiled, and the loss.")
    float8: bool = Field(False, description="Whether the linear layers multiply in float8.")
    attention: Attention | None = Field(
        None,
        description="How rows attend. sdpa: torch's scaled_dot_product_attention over padded rows. varlen: packed rows "
        "each by itself, in one call of a kernel for many lengths. perDocument: packed rows each by itself, one after "
        "the other. mask: packed rows, kept apart by a mask of all pairs of tokens. Absent with training.entrypoint.",
    )
    kernels: Kernels | None = Field(
        None,
        description="What computes the layers: torch's own kernels, code that is compiled for the device, or the same "
        "with matrices multiplied in float8. Absent with training.entrypoint.",
    )
    reasons: dict[str, Annotated[str, Field(max_length=256)]] | None = Field(
        None,
        max_length=16,
        description="Why the plan chose what it chose: by field of the plan, and for each axis of the strategy "
        "(pipeline, replicate, fsdp, context, tensor). exactness begins with exact if a test compares such a training "
        "with plain training, else with untested.",
    )
    memory_bytes_per_worker: dict[str, int] = Field(
        default={},
        max_length=16,
        description="Estimated bytes by purpose, each the most at any time. weights, gradients, optimizer: AdamW's "
        "moments, gathered: weights whole for the layers that are computed, activations and scores: what the backward "
        "pass needs of the forward pass and of the attention, logits, runtime: Python and torch, on GPUs CUDA and "
        "NCCL, checkpoint: the copy that is written. training: the most of these at one time. On CPUs loading and "
        "export: before and after the training. total: the most of training, loading and export.",
    )
    available_bytes_per_worker: int | None = Field(
        None, description="Bytes available to one worker, of the pod's memory limit or, with GPUs, of its GPU."
    )
    memory_bytes_per_pod: dict[str, int] | None = Field(
        None,
        max_length=16,
        description="With GPUs: estimated bytes of a pod beside the memory of its GPUs, by purpose. runtime: Python, "
        "torch and Ray. loading and export: before and after the training, with runtime. checkpoint: the copy that is "
        "written. total: the most at one time. resources.limits.memory, if it is set, has to hold it.",
    )


class Adjustment(ApiModel):
    """What was lowered after an attempt that ran out of memory. The result of the training is the same."""

    attempt: int = Field(description="Number of the attempt that ran out of memory.")
    time: Timestamp = Field(description="When this was noticed.")
    reason: str = Field(
        max_length=63,
        description="OutOfMemory: a GPU, or a process that was ended. OOMKilled: the kernel ended a container.",
    )
    message: str = Field(max_length=512, description="What ran out of memory.")
    per_device_train_batch_size: int = Field(
        description="Maximum number of rows per forward pass of a worker in the later attempts."
    )
    gradient_checkpointing: bool = Field(description="Whether the later attempts recompute activations.")
    logits_memory: Quantity | None = Field(
        None, description="Most memory of the logits in the later attempts. If absent, it was not lowered."
    )


class DataStatus(ApiModel):
    """Result of the prepare stage."""

    uri: StorageUri = Field(description="Folder with the prepared rows.")
    digest: Digest = Field(description="Digest of the prepared rows.")
    model_uri: StorageUri | None = Field(
        None,
        description="Folder of the model that training starts from, if model.from does not name it: that of a new "
        "model, or hf:// with the commit that the branch or tag was at.",
    )
    model_digest: Digest | None = Field(
        None,
        description="Content digest of that folder, if model.from does not have it. All stages train on this content. "
        "Absent for hf://, where the commit tells it.",
    )
    train_rows: int = Field(description="Rows that are trained on.")
    validation_rows: int = Field(
        0, description="Rows that training.validation has set aside. They are neither trained on nor held out."
    )
    held_out_rows: int = Field(description="Rows that are held out.")
    feedback_rows: int = Field(0, description="Training rows that came from feedback.")
    replay_rows: int = Field(0, description="Training rows that came from replay.")
    augmented_rows: int = Field(0, description="Training rows that augment created from others.")
    dropped_rows: int = Field(0, description="Rows that were read but are neither trained on nor held out.")
    dropped: dict[str, int] = Field(
        default={}, max_length=24, description="Number of dropped rows by reason. See docs/data.md for the reasons."
    )
    reshaped: dict[str, int] = Field(
        default={},
        max_length=8,
        description="Number of rows that were changed to be trained on, by kind of change: texts split into pieces, "
        "conversations split into one example per answer, or shortened by the answers that don't fit into maxLength, "
        "messages with fields that nothing reads.",
    )
    notes: list[Annotated[str, Field(max_length=200)]] = Field(
        default=[], max_length=4, description="Notes to read before this model is trained and served."
    )
    tokens: int = Field(0, description="Tokens in the training rows.")


FineTuneJobPhase = Literal["Pending", "Preparing", "Planning", "Training", "Suspended", "Succeeded", "Failed"]
ENDED: tuple[FineTuneJobPhase, ...] = ("Succeeded", "Failed")  # final: a job never leaves these phases


class FineTuneJobStatus(ApiModel):
    """The last observed state."""

    observed_generation: int | None = Field(None, description="Generation of the spec that this status describes.")
    phase: FineTuneJobPhase | None = Field(None, description="The job's current phase.")
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        description="Conditions of the job. See docs/conditions.md.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    data: DataStatus | None = Field(None, description="Result of the prepare stage.")
    plan: PlanStatus | None = Field(
        None, description="How the model is distributed over workers, and the memory that it needs."
    )
    progress: Progress | None = Field(None, description="Progress of training.")
    attempt: int = Field(
        0,
        description="Number of the current run of the train stage. A resume after suspend adds one, and so does an "
        "adjustment.",
    )
    adjustments: list[Adjustment] | None = Field(
        None,
        max_length=16,
        description="What was lowered after attempts that ran out of memory, the first one first. The last one counts.",
    )
    version: Name | None = Field(None, description="The ModelVersion that the job created.")
    started: Timestamp | None = Field(None, description="When the first stage started.")
    finished: Timestamp | None = Field(None, description="When the job ended.")


class FineTuneJob(ApiModel):
    """Fine-tunes or pretrains a language model and creates a ModelVersion."""

    KIND: ClassVar[str] = "FineTuneJob"
    PLURAL: ClassVar[str] = "finetunejobs"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("ftj",)
    COLUMNS: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("Phase", "string", ".status.phase"),
        ("Progress", "integer", ".status.progress.percent"),
        ("ETA", "string", ".status.progress.eta"),
        ("Loss", "string", ".status.progress.loss"),
        ("Nodes", "integer", ".spec.compute.nodes"),
        ("Mesh", "string", ".status.plan.strategy"),
        ("Version", "string", ".status.version"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )
    spec: FineTuneJobSpec = Field(description="The training to run.")
    status: FineTuneJobStatus = Field(default=FineTuneJobStatus(), description="The last observed state.")
