"""What runs a model, wherever it is served: for users, and for the gates."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from driftloop.api.base import ApiModel, Resources, SubdomainName, Text, cel, exactly_one, rule


class SecretKeyRef(ApiModel):
    """One key of a Secret of this namespace."""

    name: SubdomainName = Field(description="Name of the Secret.")
    key: str = Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253, description="Key in it.")


class EnvVar(ApiModel):
    """An environment variable: its value, or the Secret that holds it."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("value", "secretKeyRef"),
            rule(
                "!self.name.startsWith('DRIFTLOOP_') && !(self.name in ['HOME', 'HF_HUB_OFFLINE'])",
                "this variable is the operator's",
                ".name",
            ),
        )
    )
    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128, description="Name of the variable.")
    value: str | None = Field(None, max_length=4096, description="Its value.")
    secret_key_ref: SecretKeyRef | None = Field(None, description="The Secret that holds its value.")

    def rendered(self) -> dict[str, Any]:
        """As the core API has it."""
        if self.secret_key_ref is not None:
            return {"name": self.name, "valueFrom": {"secretKeyRef": self.secret_key_ref.dump()}}
        # Kubernetes expands $(NAME) and makes one of two dollars: each is doubled, so that a value is what it says.
        return {"name": self.name, "value": (self.value or "").replace("$", "$$")}


# Arguments by which an engine would serve another model than the one that was verified, or be reached past the proxy.
OWNED_ARGUMENTS = (
    "api-key",
    "config",
    "data-parallel-rank",
    "host",
    "load-format",
    "model",
    "port",
    "revision",
    "root-path",
    "served-model-name",
    "tokenizer",
    "trust-remote-code",
    "uds",
)
# vLLM's parser takes underscores for dashes.
_OWNED = f"^--({'|'.join(OWNED_ARGUMENTS).replace('-', '[-_]')})(=.*)?$"


class Engine(ApiModel):
    """What runs the model."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule("self.type != 'vllm' || has(self.image)", "engine.type vllm needs an image", ".image"),
            rule(
                "self.type == 'vllm' || self.gpus <= 1",
                "engine.gpus above 1 needs engine.type vllm: the built-in engine uses one GPU",
                ".gpus",
            ),
            rule(
                f"!self.args.exists(a, a.matches('{_OWNED}'))",
                f"these arguments are the operator's: --{', --'.join(OWNED_ARGUMENTS)}",
                ".args",
            ),
        )
    )
    type: Literal["transformers", "vllm"] = Field("transformers", description="The engine behind the proxy.")
    image: Text | None = Field(None, description="Its image; Driftloop's own server image for transformers if absent.")
    args: list[Annotated[str, Field(max_length=512)]] = Field(
        default=[],
        max_length=64,
        description="Further arguments of the engine. Those that say what it serves and where belong to the operator.",
    )
    env: list[EnvVar] = Field(
        default=[],
        max_length=64,
        description="Environment variables of the engine, such as VLLM_ATTENTION_BACKEND.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    max_model_len: int | None = Field(
        None, ge=16, le=10_485_760, description="Context length; the model's own if absent."
    )
    max_num_seqs: int = Field(32, ge=1, le=4096, description="Requests in one batch, at most.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Type of the weights.")
    gpus: int = Field(0, ge=0, le=16, description="GPUs per pod; the engine transformers uses one at most.")
    resources: Resources = Field(default=Resources(), description="Resources of the engine, GPUs aside.")
