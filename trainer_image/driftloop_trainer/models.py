"""Hugging Face models: checks and loads their folders, builds new ones, and counts parameters."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from driftloop.api.finetunejob import Adapter, TrainingSpec
from driftloop.contract.chattemplate import chosen
from driftloop.contract.positions import position_scaling
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import ModelFacts
from driftloop.contract.tied import tied_targets
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.heavy import loading
from driftloop_trainer.modelfiles import check_model_files
from driftloop_trainer.nf4 import linear_parameters
from driftloop_trainer.osf import with_osf
from driftloop_trainer.tensorplan import left_whole
from driftloop_trainer.weights import is_rearranged, meta_model, tied_names

# Types that support packing, each tested with a tiny model: rows packed into one sequence get the same loss as alone.
# In other types a row sees the previous row, without an error: in recurrent models, and where the model (bloom, opt,
# mpt) or its mask (falcon, gpt_oss) ignores position ids. https://github.com/huggingface/transformers/issues/32937
PACKING_TYPES = frozenset(
    (
        *("apertus", "arcee", "cohere", "cohere2", "cwm", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text"),
        *("glm", "glm4", "glm4_moe", "gpt2", "gpt_neo", "gpt_neox", "gptj", "granite", "granitemoe", "helium"),
        *("hunyuan_v1_dense", "hyperclovax", "internlm3", "iquestcoder", "jais2", "llama", "ministral", "ministral3"),
        *("mistral", "mixtral", "nanochat", "nemotron", "olmo", "olmo2", "olmo3", "phi", "phi3", "qwen2", "qwen2_moe"),
        *("qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2", "vaultgemma"),
    )
)
# Types whose packed rows are kept apart by transformers' mask: gemma2 and vaultgemma cap their scores, which torch's
# kernels don't; gpt_neo and gptj compute attention themselves; nemotron, qwen2_moe and stablelm don't pass on what
# attention needs.
MASKED_TYPES = frozenset(("gemma2", "gpt_neo", "gptj", "nemotron", "qwen2_moe", "stablelm", "vaultgemma"))
# The others attend within each row, without a mask (worker/attention.py), each tested with a tiny model: loss and
# gradient are those of the rows alone.
DOCUMENT_TYPES = PACKING_TYPES - MASKED_TYPES
# Checked, each by a tiny model of its type: the logits are what the output layer returns. Others scale or cap them
# (cohere, gemma2, granite), so the loss needs all of them at once.
CHUNKED_TYPES = frozenset(
    (
        *("apertus", "arcee", "cwm", "ernie4_5", "exaone4", "gemma", "glm", "glm4", "glm4_moe", "gpt2", "gpt_neo"),
        *("gpt_neox", "gptj", "helium", "hunyuan_v1_dense", "internlm3", "iquestcoder", "jais2", "llama", "ministral"),
        *("ministral3", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2"),
        *("qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2"),
    )
)
# transformers lists these types as causal, but unless `is_decoder` is set they see the tokens that they should predict.
# Then transformers only logs a warning: https://github.com/huggingface/transformers/pull/6411
ENCODER_TYPES = frozenset(
    (
        *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
        *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl"),
    )
)
# These see them with `is_decoder` too (xlm, xlnet and cpmant were tried), or nobody has tried.
BIDIRECTIONAL_TYPES = frozenset(("cpmant", "flaubert", "prophetnet", "xlm", "xlnet", "xmod"))


def check_model_folder(folder: Path, uri: str, bases: Sequence[str] = ()) -> None:
    """Raise StageFailure if the folder is not a causal language model that transformers supports."""
    config_for(check_model_files(folder, uri, bases))


def config_for(fields: dict[str, Any]) -> Any:
    """A transformers configuration from its fields. Raises StageFailure if it is not a known causal model."""
    kwargs = dict(fields)
    model_type = kwargs.pop("model_type", None)
    try:
        config = AutoConfig.for_model(str(model_type), **kwargs)
    except ValueError as error:
        raise StageFailure(
            StageReason.UNKNOWN_ARCHITECTURE,
            f"transformers doesn't know model_type {model_type!r}; use one such as llama, qwen3 or mistral",
        ) from error
    except Exception as error:  # for a field of the wrong type, configuration classes may raise anything
        raise StageFailure(StageReason.BAD_ARCHITECTURE, f"{model_type}: {error}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise StageFailure(StageReason.UNKNOWN_ARCHITECTURE, f"model_type {model_type!r} has no causal language model")
    needs_decoder = model_type in ENCODER_TYPES and not getattr(config, "is_decoder", False)
    if needs_decoder or model_type in BIDIRECTIONAL_TYPES:
        raise StageFailure(
            StageReason.UNKNOWN_ARCHITECTURE,
            f"model_type {model_type!r} is an encoder, which sees the tokens that it should predict: use a generative "
            "model such as llama, qwen3 or mistral",
        )
    return config


def load_config(folder: Path) -> Any:
    """Load the configuration of a checked folder."""
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # kinds of layers with keys and values


def context_length(config: Any) -> int | None:
    """The model's maximal context in tokens; None if its config doesn't have one (bloom, mpt)."""
    positions = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def is_recurrent(config: Any) -> bool:
    """Whether transformers marks the architecture as stateful (recurrent). Our engine can't serve these models."""
    return bool(getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "_is_stateful", False))


def load_tokenizer(folder: Path, uri: str) -> Any:
    """Load the tokenizer of a checked folder and give it a padding token. Raises StageFailure."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise StageFailure(StageReason.TOKENIZER_NOT_FOUND, f"{uri}: {error}") from error
    if tokenizer.eos_token_id is None:
        raise StageFailure(
            StageReason.TOKENIZER_NOT_FOUND, f"{uri}: the tokenizer has no eos_token, so answers would never end"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def set_chat_template(tokenizer: Any, training: TrainingSpec) -> None:
    """Give the tokenizer the chat template that the job asks for. Raises StageFailure."""
    if training.chat_template is None and training.chat_template_kwargs is None:
        return
    try:
        text = chosen(tokenizer.chat_template, training.chat_template, training.chat_template_kwargs)
    except ValueError as error:
        raise StageFailure(StageReason.NO_CHAT_TEMPLATE, f"training.{error}") from error
    tokenizer.chat_template = text


def load_model(folder: Path, adapter: Adapter) -> Any:
    """Load the model of a checked folder in float32 on the CPU, with `adapter` added."""
    with loading():  # also imports the architecture's modules
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    return with_adapter(model, adapter)


def with_adapter(model: Any, adapter: Adapter) -> Any:
    """Add an adapter and freeze the weights, or return `model` itself. Raises StageFailure for unknown modules."""
    if adapter.type == "none":
        return model
    if adapter.type == "osf":
        return with_osf(model, adapter)
    from peft import LoraConfig, get_peft_model  # slow to import, and needed only for LoRA

    targets = adapter.target_modules
    config = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        target_modules="all-linear" if targets == ["all-linear"] else list(targets),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise StageFailure(StageReason.UNKNOWN_MODULES, f"training.adapter.targetModules: {error}") from error


def plain_name(name: str) -> str:
    """The name of a weight or module in the bare model, by its name in the model that PEFT has wrapped."""
    return re.sub(r"(\.base_layer)+(?=\.|$)", "", name.removeprefix("base_model.model."))


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformers model: the modules that it lists as not to be split over devices."""
    names = {name for module in model.modules() for name in (getattr(module, "_no_split_modules", None) or ())}
    return [module for module in model.modules() if type(module).__name__ in names]


def model_facts(config: Any, adapter: Adapter, *, merged: bool = True) -> ModelFacts:
    """Count a model's parameters without allocating them. Raises StageFailure if `adapter` can't be trained on it.

    Without `merged`, also if it can't be a version alone.
    """
    bare = meta_model(config)
    rearranged = is_rearranged(bare)
    layers = [_count(layer) for layer in decoder_layers(bare)]
    linear = linear_parameters(decoder_layers(bare))
    if rearranged and adapter.type in ("osf", "qlora"):
        raise StageFailure(
            StageReason.UNKNOWN_MODULES,
            f"training.adapter.type: {adapter.type} can't be trained with models of type {config.model_type!r}, whose "
            "weights are stored in another form: use lora or none",
        )
    if adapter.type == "qlora" and not linear:
        raise StageFailure(
            StageReason.UNKNOWN_MODULES,
            f"training.adapter.type: qlora needs linear layers, which models of type {config.model_type!r} do not "
            "have: use lora",
        )
    if rearranged and not merged:
        raise StageFailure(
            StageReason.UNKNOWN_MODULES,
            f"output.mergeAdapter: an adapter of models of type {config.model_type!r}, whose weights are stored in "
            "another form, can't be a version alone: set it to true",
        )
    shared = {name for first, *others in tied_names(bare) if others for name in (first, *others)}
    own, unsplit = _count(bare), left_whole(bare)
    with loading(), torch.device("meta"):
        model = with_adapter(bare, adapter)
    if tied := [name for name in _adapted_modules(model) if f"{name}.weight" in shared]:
        raise StageFailure(StageReason.UNKNOWN_MODULES, tied_targets(tied))
    if adapter.type == "qlora" or not merged:
        _check_linear(model, "use lora" if adapter.type == "qlora" else "set output.mergeAdapter to true")
    if adapter.type == "osf":
        layers = [_count(layer) for layer in decoder_layers(model)]  # several times as large
    text = config.get_text_config()
    vocabulary, width = model.get_input_embeddings().weight.shape
    return ModelFacts(
        model_type=config.model_type,
        parameters=_count(model),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        embedding_parameters=vocabulary * width,
        largest_layer_parameters=max(layers, default=0),
        linear_parameters=linear,
        num_layers=len(layers),
        hidden_size=getattr(text, "hidden_size", None) or width,
        intermediate_size=getattr(text, "intermediate_size", None) or 0,
        num_attention_heads=getattr(text, "num_attention_heads", None) or 0,  # None for Mamba
        num_key_value_heads=getattr(text, "num_key_value_heads", None) or 0,
        head_size=_head_size(text),
        vocab_size=getattr(text, "vocab_size", None) or vocabulary,
        max_position_embeddings=context_length(config) or 0,
        tied_embeddings=bool(getattr(config, "tie_word_embeddings", False)),
        loaded_whole=rearranged,
        chunked_loss=config.model_type in CHUNKED_TYPES,
        document_attention=config.model_type in DOCUMENT_TYPES,
        position_scaling=position_scaling(getattr(text, "rope_parameters", None)),
        left_whole=unsplit,
        bare_parameters=own,
        dtype=str(getattr(config, "dtype", None) or torch.float32).removeprefix("torch."),
        cache_elements=_cache_elements(config),
    )


def _head_size(text: Any) -> int:
    """The size of an attention head; 0 if the configuration does not tell it (Mamba)."""
    heads, width = getattr(text, "num_attention_heads", None), getattr(text, "hidden_size", None)
    return getattr(text, "head_dim", None) or (width // heads if heads and width else 0)


def _adapted_modules(model: nn.Module) -> list[str]:
    """The names in the bare model of the modules that have an adapter."""
    parts = (re.split(r"\.(?:lora|osf)_", name) for name, _ in model.named_parameters())
    return sorted({plain_name(module) for module, *adapter in parts if adapter})


def _cache_elements(config: Any) -> int:
    """Keys and values of a token, in the layers that keep those of all tokens; 0 if the model keeps something else.

    Layers with a window keep a bounded number of tokens, which is left out.
    """
    text = config.get_text_config(decoder=True)
    heads, keys = (getattr(text, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * getattr(text, "num_hidden_layers", 0)
    compressed = getattr(text, "kv_lora_rank", None) or getattr(text, "global_head_dim", None)
    windowed = getattr(text, "sliding_window", None) and not getattr(text, "layer_types", None)
    if not heads or not keys or compressed or windowed or is_recurrent(config) or set(kinds) - _ATTENTION:
        return 0
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return int(2 * keys * size * kinds.count("full_attention"))


def _check_linear(model: nn.Module, otherwise: str) -> None:
    """Raise StageFailure if an adapter is not that of a linear layer: it would be merged into other weights."""
    from peft.tuners.lora import Linear, LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and not isinstance(module, Linear):
            raise StageFailure(
                StageReason.UNKNOWN_MODULES,
                f"training.adapter.targetModules: {plain_name(name)} is not a linear layer: remove it, or {otherwise}",
            )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
