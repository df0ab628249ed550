"""Properties of a dense decoder from its config.json, counted without torch. Pure.

transformers is not in the operator's package. The trainer counts the modules that transformers builds; a test compares
the two for each type of model here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, PositiveInt

from driftloop.api.finetunejob import Adapter
from driftloop.contract.positions import position_scaling
from driftloop.contract.result import ModelFacts
from driftloop.contract.tied import tied_targets

ALL_LINEAR = "all-linear"  # every linear layer except the output layer, as PEFT defines it
OUTPUT, EMBEDDING = "lm_head", "model.embed_tokens"


class UnknownModel(ValueError):
    """A model that can't be counted here, or modules that can't have an adapter."""


@dataclass(frozen=True)
class _Family:
    """How the layers of a model type differ from Llama's, and the values of fields that its config.json may lack.

    `biases`, `output_bias`, `mlp_bias`: the fields that the type reads for the biases of the queries, keys and values,
    of the attention's output, and of the MLP; "" if there are none.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    biases: str = "attention_bias"
    output_bias: str = "attention_bias"
    mlp_bias: str = ""
    always_biased: bool = False  # the queries, keys and values, without a field
    gated: bool = True  # the MLP has a third matrix
    qk_norms: int = 0  # 1: a norm for q and for k per head, 2: one over all heads
    norms: int = 2  # norms per layer of the width of the model; without them none follows the layers
    norm_biases: bool = False
    chunked_loss: bool = True  # false where the model scales or caps its logits
    document_attention: bool = True  # false where the model caps its scores


def _lacking(heads: int | None, positions: int, **others: Any) -> dict[str, Any]:
    """Values of fields that a config.json may lack. `heads`: of keys and values; None: as many as of queries."""
    return {"num_key_value_heads": heads, "max_position_embeddings": positions} | others


_GEMMA = {"head_dim": 256, "tie_word_embeddings": True}
_FAMILIES = {
    "arcee": _Family(_lacking(None, 4096), mlp_bias="mlp_bias", gated=False),
    "cohere2": _Family(_lacking(None, 8192, tie_word_embeddings=True), norms=1, chunked_loss=False),
    "cwm": _Family(_lacking(8, 131_072, head_dim=128), biases="", output_bias="", mlp_bias="mlp_bias"),
    "ernie4_5": _Family(
        _lacking(2, 131_072, head_dim=128, tie_word_embeddings=True),
        biases="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
    ),
    "exaone4": _Family(_lacking(32, 2048), biases="", output_bias="", qk_norms=1),
    "gemma": _Family(_lacking(16, 8192, **_GEMMA)),
    "gemma2": _Family(_lacking(4, 8192, **_GEMMA), norms=4, chunked_loss=False, document_attention=False),
    "gemma3_text": _Family(_lacking(4, 131_072, **_GEMMA), norms=4, qk_norms=1, chunked_loss=False),
    "granite": _Family(_lacking(None, 2048), mlp_bias="mlp_bias", chunked_loss=False),
    "jais2": _Family(
        _lacking(None, 8192, attention_bias=True, mlp_bias=True), mlp_bias="mlp_bias", gated=False, norm_biases=True
    ),
    "llama": _Family(_lacking(None, 2048), mlp_bias="mlp_bias"),
    "ministral3": _Family(_lacking(8, 262_144, head_dim=128), biases="", output_bias=""),
    "mistral": _Family(_lacking(8, 131_072), biases="", output_bias=""),
    "olmo": _Family(_lacking(None, 2048), norms=0),
    "olmo2": _Family(_lacking(None, 2048), qk_norms=2),
    "olmo3": _Family(_lacking(None, 2048), qk_norms=2),
    "qwen2": _Family(_lacking(32, 32_768), biases="", output_bias="", always_biased=True),
    "qwen3": _Family(_lacking(32, 32_768, head_dim=128), qk_norms=1),
    "seed_oss": _Family(
        _lacking(8, 524_288, head_dim=128, attention_bias=True), output_bias="attention_out_bias", mlp_bias="mlp_bias"
    ),
    "smollm3": _Family(_lacking(4, 32_768, tie_word_embeddings=True), mlp_bias="mlp_bias"),
    "vaultgemma": _Family(_lacking(4, 8192, **_GEMMA), chunked_loss=False, document_attention=False),
}
MODEL_TYPES = tuple(_FAMILIES)


class _Config(BaseModel):
    """The fields of config.json that decide the number of parameters."""

    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    use_bias: bool = False

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class _Linear:
    """A linear layer, or an embedding."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs + self.bias * self.outputs


def decoder_facts(fields: Mapping[str, Any], adapter: Adapter) -> ModelFacts:
    """Count the parameters of the model that the fields of a config.json describe, with `adapter` added.

    Raises:
        UnknownModel: the model type or a target module is not known here, or embeddings that are tied have an adapter.
        pydantic.ValidationError: a field is absent or has a wrong value.
    """
    model_type = fields.get("model_type")
    if (family := _FAMILIES.get(str(model_type))) is None:
        known = ", ".join(MODEL_TYPES)
        raise UnknownModel(f"model_type {model_type!r} can't be counted without a cluster; these can: {known}")
    config = _Config.model_validate({**family.defaults, **fields})
    norm = config.hidden_size * (2 if family.norm_biases else 1)
    layer = sum(linear.parameters for linear in _layer(config, family)) + family.norms * norm
    layer += _qk_norms(config, family)
    embedding = config.vocab_size * config.hidden_size
    outside = embedding * (1 if config.tie_word_embeddings else 2) + (norm if family.norms else 0)
    base = config.num_hidden_layers * layer + outside
    trained, added = _adapter_parameters(config, family, adapter)
    if adapter.type == "osf":
        layer += added // config.num_hidden_layers
    return ModelFacts(
        model_type=str(model_type),
        parameters=base + added,
        trainable_parameters=base if adapter.type == "none" else trained,
        embedding_parameters=embedding,
        largest_layer_parameters=layer,
        linear_parameters=config.num_hidden_layers * sum(lin.inputs * lin.outputs for lin in _layer(config, family)),
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads or config.num_attention_heads,
        head_size=config.head_width,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        tied_embeddings=config.tie_word_embeddings,
        chunked_loss=family.chunked_loss,
        document_attention=family.document_attention,
        position_scaling=position_scaling(fields.get("rope_parameters") or fields.get("rope_scaling")),
    )


def _layer(config: _Config, family: _Family) -> Iterator[_Linear]:
    """The linear layers of one decoder layer: attention with grouped keys and values, and an MLP."""
    hidden, width = config.hidden_size, config.head_width
    queries = config.num_attention_heads * width
    keys = (config.num_key_value_heads or config.num_attention_heads) * width
    biased = _is_set(config, family.biases) or family.always_biased
    for name, outputs in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        yield _Linear(f"self_attn.{name}", hidden, outputs, biased)
    yield _Linear("self_attn.o_proj", queries, hidden, _is_set(config, family.output_bias))
    biased = _is_set(config, family.mlp_bias)
    for name in ("gate_proj", "up_proj") if family.gated else ("up_proj",):
        yield _Linear(f"mlp.{name}", hidden, config.intermediate_size, biased)
    yield _Linear("mlp.down_proj", config.intermediate_size, hidden, biased)


def _is_set(config: _Config, name: str) -> bool:
    """Whether the field is true; false without a field."""
    return bool(name) and bool(getattr(config, name))


def _qk_norms(config: _Config, family: _Family) -> int:
    """Parameters of the norms of queries and keys in a layer."""
    heads = config.num_attention_heads + (config.num_key_value_heads or config.num_attention_heads)
    return config.head_width * {0: 0, 1: 2, 2: heads}[family.qk_norms]


def _adapter_parameters(config: _Config, family: _Family, adapter: Adapter) -> tuple[int, int]:
    """Parameters that the adapter adds to its target modules: the trained ones, and all."""
    if adapter.type == "none":
        return 0, 0
    layers = [
        _Linear(f"model.layers.{number}.{linear.name}", linear.inputs, linear.outputs)
        for number in range(config.num_hidden_layers)
        for linear in _layer(config, family)
    ]
    if adapter.target_modules == [ALL_LINEAR]:
        targets = layers
    else:
        names = (OUTPUT,) if adapter.type == "osf" else (EMBEDDING, OUTPUT)  # osf cuts linear layers alone
        around = [_Linear(name, config.hidden_size, config.vocab_size) for name in names]
        targets = [linear for linear in (*layers, *around) if _is_target(linear.name, adapter.target_modules)]
    if not targets:
        raise UnknownModel(f"training.adapter.targetModules: the model has none of {', '.join(adapter.target_modules)}")
    if tied := [lin.name for lin in targets if config.tie_word_embeddings and lin.name in (EMBEDDING, OUTPUT)]:
        raise UnknownModel(tied_targets(sorted(tied)))
    if adapter.type in ("lora", "qlora"):
        added = sum(adapter.r * (linear.inputs + linear.outputs) for linear in targets)
        return added, added
    trained = kept = 0
    for linear in targets:
        directions = min(linear.inputs, linear.outputs)
        rank = min(max(1, int(directions * adapter.effective_rank)), directions - 1)
        trained += (directions - rank) * (linear.inputs + linear.outputs + 1)
        kept += rank * (linear.inputs + linear.outputs)
    return trained, trained + kept


def _is_target(name: str, targets: list[str]) -> bool:
    """Whether PEFT adds an adapter to the module: by its full name, or by the last parts of it."""
    return any(name == target or name.endswith(f".{target}") for target in targets)
