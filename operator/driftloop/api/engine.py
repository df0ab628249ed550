"""The engine that runs a model: in an InferenceService, and in an evaluation."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from driftloop.api.base import (
    NVIDIA_GPU,
    ApiModel,
    GpuResource,
    Quantity,
    Resources,
    SecretKeyRef,
    SubdomainName,
    Text,
    cel,
    exactly_one,
    rule,
)
from driftloop.api.template import ChatTemplateKwargs, ChatTemplateText

EngineType = Literal["transformers", "vllm", "custom"]  # an engine that runs: what `auto` is resolved to


class EnvVar(ApiModel):
    """An environment variable: its value, or the Secret that holds the value."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("value", "secretKeyRef"),
            rule(
                "!self.name.startsWith('DRIFTLOOP_') && !(self.name in ['HOME', 'HF_HUB_OFFLINE'])",
                "the operator sets this variable: remove it",
                ".name",
            ),
        )
    )
    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128, description="Name of the variable.")
    value: str | None = Field(None, max_length=4096, description="Value of the variable.")
    secret_key_ref: SecretKeyRef | None = Field(None, description="The Secret key that holds the value.")

    def rendered(self) -> dict[str, Any]:
        """The variable as an EnvVar of the core API."""
        if self.secret_key_ref is not None:
            return {"name": self.name, "valueFrom": {"secretKeyRef": self.secret_key_ref.dump()}}
        # Kubernetes expands $(NAME) and turns $$ into $. Doubling each dollar sign keeps the value unchanged.
        return {"name": self.name, "value": (self.value or "").replace("$", "$$")}


# With these arguments an engine could serve a model that was not verified, or be reached without the proxy.
OWNED_ARGUMENTS = (
    "api-key",
    "config",
    "data-parallel-rank",
    "headless",
    "host",
    "load-format",
    "master-addr",
    "master-port",
    "model",
    "nnodes",
    "node-rank",
    "port",
    "revision",
    "root-path",
    "served-model-name",
    "tokenizer",
    "trust-remote-code",
    "uds",
)
# What the command and the arguments of a custom engine may contain. Kubernetes replaces them, as variables of the
# container: https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/
MODEL_VARIABLE, NAME_VARIABLE, PORT_VARIABLE = "DRIFTLOOP_MODEL", "DRIFTLOOP_NAME", "DRIFTLOOP_PORT"
_VARIABLES = tuple(f"$({name})" for name in (MODEL_VARIABLE, NAME_VARIABLE, PORT_VARIABLE))
_IS_UNKNOWN = "a" + "".join(f".replace('{variable}', '')" for variable in _VARIABLES) + ".contains('$(DRIFTLOOP_')"
# vLLM's argument parser accepts underscores instead of dashes, and any unambiguous beginning of a name instead of the
# whole (https://docs.python.org/3/library/argparse.html#allow-abbrev).
_IS_OWNED = (
    f"a.startsWith('--') && {[f'--{name}' for name in OWNED_ARGUMENTS]}"
    ".exists(name, name.startsWith(a.split('=')[0].replace('_', '-')))"
)


# vLLM's names for what `parallelism` sets, with their abbreviations.
_IS_PARALLEL = (
    "a == '-tp' || a.startsWith('-tp=') || a == '-pp' || a.startsWith('-pp=') || (a.startsWith('--') && "
    "['--tensor-parallel-size', '--pipeline-parallel-size']"
    ".exists(name, name.startsWith(a.split('=')[0].replace('_', '-')) && a.size() > 3))"
)
# What `nodes` sets, beside the owned arguments of which these are short forms.
_IS_OF_GROUP = (
    "a == '-n' || a.startsWith('-n=') || a == '-r' || a.startsWith('-r=') || "
    "(a.startsWith('--') && '--distributed-executor-backend'.startsWith(a.split('=')[0].replace('_', '-')) && "
    "a.size() > 3)"
)


# What `adapters` sets.
_IS_OF_ADAPTERS = (
    "a.startsWith('--') && "
    "['--enable-lora', '--lora-modules', '--max-lora-rank', '--max-loras', '--max-cpu-loras']"
    ".exists(name, name.startsWith(a.split('=')[0].replace('_', '-')) && a.size() > 3)"
)


class EngineAdapters(ApiModel):
    """How versions that are adapters alone are served beside their base."""

    max_rank: Literal[8, 16, 32, 64, 128, 256] = Field(
        16,
        description="The largest rank of an adapter (training.adapter.r). A larger number takes more memory, and makes "
        "every answer slower. A version whose adapter has a larger rank is not served.",
    )


class EngineParallelism(ApiModel):
    """How the processes of a replica divide the model. Each has its own GPU."""

    tensor: int = Field(
        1,
        ge=1,
        le=16,
        description="Processes that share the matrices of every layer. They exchange much, so it needs fast links "
        "between the GPUs, so keep it within a pod. It must divide the model's attention heads.",
    )
    pipeline: int = Field(
        1,
        ge=1,
        le=16,
        description="Stages, each with a part of the layers. They exchange little, but a single request is not faster.",
    )

    @property
    def processes(self) -> int:
        """The number of processes."""
        return self.tensor * self.pipeline


class Engine(ApiModel):
    """The engine that runs the model, and its settings."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "self.gpus <= 1 || self.type in ['vllm', 'custom'] || (self.type == 'auto' && !has(self.image))",
                "engine.gpus above 1 needs engine.type vllm: the built-in engine uses one GPU",
                ".gpus",
            ),
            rule(
                "!has(self.gpuClaimTemplate) || self.gpus > 0",
                "engine.gpuClaimTemplate needs engine.gpus: set it to the number of GPUs that the template claims",
                ".gpus",
            ),
            rule(
                "!has(self.parallelism) || self.type == 'vllm' || (self.type == 'auto' && !has(self.image))",
                "engine.parallelism needs engine.type vllm: remove it, or for a custom engine set its own arguments",
                ".parallelism",
            ),
            rule(
                "self.nodes == 1 || self.type == 'vllm' || (self.type == 'auto' && !has(self.image))",
                "engine.nodes above 1 needs engine.type vllm: no other engine is started over several pods",
                ".nodes",
            ),
            rule(
                "!has(self.adapters) || self.type == 'vllm' || (self.type == 'auto' && !has(self.image))",
                "engine.adapters needs engine.type vllm: remove it, and adapters are merged onto their base",
                ".adapters",
            ),
            rule(
                "!has(self.adapters) || self.nodes == 1",
                "engine.adapters is not supported with engine.nodes above 1: remove one of them",
                ".adapters",
            ),
            rule(
                f"!has(self.adapters) || !self.args.exists(a, {_IS_OF_ADAPTERS})",
                "engine.adapters sets --enable-lora, --lora-modules, --max-lora-rank, --max-loras and --max-cpu-loras: "
                "remove them from args",
                ".args",
            ),
            rule(
                "!has(self.parallelism) || self.gpus == 0 || "
                "self.parallelism.tensor * self.parallelism.pipeline == self.gpus * self.nodes",
                "engine.gpus, the GPUs per pod, times engine.nodes must be parallelism.tensor x parallelism.pipeline",
                ".gpus",
            ),
            rule(
                "!has(self.parallelism) || self.parallelism.tensor * self.parallelism.pipeline % self.nodes == 0",
                "engine.nodes must divide parallelism.tensor x parallelism.pipeline: each pod has the same number of "
                "processes",
                ".nodes",
            ),
            rule(
                f"self.nodes == 1 || !self.args.exists(a, {_IS_OF_GROUP})",
                "engine.nodes sets -n, -r and --distributed-executor-backend: remove them from args",
                ".args",
            ),
            rule(
                f"!has(self.parallelism) || !self.args.exists(a, {_IS_PARALLEL})",
                "engine.parallelism sets --tensor-parallel-size and --pipeline-parallel-size: remove them from args",
                ".args",
            ),
            rule("self.type != 'custom' || has(self.image)", "engine.type custom needs an image", ".image"),
            rule(
                "self.type == 'custom' || (!has(self.command) && !has(self.readinessPath))",
                "command and readinessPath need engine.type custom: remove them",
                ".type",
            ),
            rule(
                "self.type != 'custom' || (!has(self.maxModelLen) && self.maxNumSeqs == 32 && self.dtype == 'auto')",
                "a custom engine gets maxModelLen, maxNumSeqs and dtype only by its own arguments: set them in "
                "engine.args",
                ".args",
            ),
            rule(
                f"self.type != 'custom' || !self.args.exists(a, {_IS_UNKNOWN})",
                f"a custom engine has only the variables {', '.join(_VARIABLES)}",
                ".args",
            ),
            rule(
                f"self.type != 'custom' || !has(self.command) || !self.command.exists(a, {_IS_UNKNOWN})",
                f"a custom engine has only the variables {', '.join(_VARIABLES)}",
                ".command",
            ),
            rule(
                f"self.type == 'custom' || !self.args.exists(a, {_IS_OWNED})",
                "the operator sets these arguments, remove them and their abbreviations: "
                f"--{', --'.join(OWNED_ARGUMENTS)}",
                ".args",
            ),
        )
    )
    type: Literal["auto", "transformers", "vllm", "custom"] = Field(
        "auto",
        description="The engine behind the proxy. transformers: the built-in one, for models up to 1B parameters. "
        "auto: vllm if gpus is above 0, image is absent and the operator has an image of vLLM (images.vllm in the "
        "chart's values); else transformers. status.stable.engine names the one that runs. custom: any other server "
        "with OpenAI's API, from `image`, `command` and `args`.",
    )
    image: Text | None = Field(
        None,
        description="Image of the engine. If absent: Driftloop's server image for transformers, the operator's image "
        "of vLLM for vllm. With an image of vLLM set type: vllm too.",
    )
    command: list[Annotated[str, Field(max_length=512)]] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="Command of a custom engine. If absent, the image's entry point. Kubernetes replaces "
        "$(DRIFTLOOP_MODEL) by the folder of the verified model, $(DRIFTLOOP_NAME) by the model's name in the API, and "
        "$(DRIFTLOOP_PORT) by the port, here and in args. The server must listen on 127.0.0.1.",
    )
    args: list[Annotated[str, Field(max_length=512)]] = Field(
        default=[],
        max_length=64,
        description="Additional arguments of the engine. The operator sets those for the model, host and port, except "
        "for a custom engine.",
    )
    readiness_path: str | None = Field(
        None,
        pattern=r"^/[A-Za-z0-9/_.~-]*$",
        max_length=256,
        description="Path of a custom engine that is answered with 2xx once the model is loaded; /health if absent. "
        "The pod is ready if the engine also generates a token. If the path hangs or fails with 5xx for two minutes, "
        "the engine is restarted; 503 before the first success is not a failure.",
    )
    env: list[EnvVar] = Field(
        default=[],
        max_length=64,
        description="Environment variables of the engine, such as VLLM_ATTENTION_BACKEND.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    chat_template: ChatTemplateText | None = Field(
        None,
        description="Chat template (Jinja) to serve with, instead of the version's own, for every type of engine.",
    )
    chat_template_kwargs: ChatTemplateKwargs | None = Field(
        None,
        description="Default values for variables of the chat template, such as enable_thinking: false. A request's "
        "chat_template_kwargs win. A version that was trained with such values has them as defaults already.",
    )
    max_model_len: int | None = Field(
        None, ge=16, le=10_485_760, description="Context length in tokens. If absent, the model's own."
    )
    max_num_seqs: int = Field(32, ge=1, le=4096, description="Maximum number of requests in one batch.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Data type of the weights.")
    gpus: int = Field(0, ge=0, le=16, description="GPUs per pod. The engine transformers uses at most one.")
    gpu_resource: GpuResource = NVIDIA_GPU
    gpu_claim_template: SubdomainName | None = Field(
        None,
        description="ResourceClaimTemplate of this namespace with the GPUs of one pod, for dynamic resource allocation "
        "in place of gpuResource. gpus is the number of its GPUs.",
    )
    nodes: int = Field(
        1,
        ge=1,
        le=16,
        description="Pods per replica. Above 1, a replica is a group: a leader that answers, and workers that hold the "
        "rest of the model. It is ready, drained and counted as one, and restarted as one if a pod is lost. Needs vLLM "
        "0.12 or later. Prefer a pod with more GPUs where a node has them: between nodes links are slower.",
    )
    parallelism: EngineParallelism | None = Field(
        None,
        description="How vLLM divides the model over the GPUs of a replica, or without GPUs over processes. If absent, "
        "the GPUs of a pod share every layer (tensor), and each pod has a part of the layers (pipeline).",
    )
    adapters: EngineAdapters | None = Field(
        None,
        description="Serve a version that is an adapter alone (output.mergeAdapter: false) beside its base: vLLM adds "
        "it to each answer. If absent, the pods merge it onto its base when they start.",
    )
    gpu_memory: Quantity | None = Field(
        None,
        description="Memory of one GPU, such as 80Gi. A model that does not fit is refused before a GPU is taken, and "
        "status.stable.plan has the tokens that fit beside it. If absent, it is read from labels of the nodes "
        "(nvidia.com/gpu.memory, or those of Karpenter or GKE); without one, no model is refused.",
    )
    resources: Resources = Field(default=Resources(), description="Resources of the engine, without GPUs.")

    @property
    def divided(self) -> EngineParallelism:
        """How the model is divided: as set, else in a pod by tensor, and over pods by pipeline."""
        return self.parallelism or EngineParallelism(tensor=max(1, self.gpus), pipeline=self.nodes)
