"""Hugging Face model folders: checked before they are loaded, built, and counted."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from driftloop.api.finetunejob import Adapter
from driftloop.contract.manifest import Manifest, ManifestEntry, file_sha256
from driftloop.contract.result import ModelFacts
from driftloop_trainer.failure import StageFailure

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)


def check_model_folder(folder: Path, uri: str) -> None:
    """Refuse what can't be loaded, or only by running code that came with the weights. Raises StageFailure."""
    config = _json(folder / "config.json")
    if config is None:
        raise StageFailure("ModelNotFound", f"{uri}: no readable config.json; give the folder of a Hugging Face model")
    for name, content in (("config.json", config), ("tokenizer_config.json", _json(folder / "tokenizer_config.json"))):
        if content and "auto_map" in content:
            raise StageFailure("RemoteCode", f"{uri}: {name} has auto_map, code of its own; only built-in models load")
    if not any(folder.glob("*.safetensors")):
        if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
            raise StageFailure("PickleWeights", f"{uri}: pickle weights can run code; convert to safetensors")
        raise StageFailure("ModelNotFound", f"{uri}: no *.safetensors file")
    config_for(dict(config))


def config_for(fields: dict[str, Any]) -> Any:
    """A transformers configuration from its fields. Raises StageFailure when it isn't a known causal model."""
    kwargs = dict(fields)
    model_type = kwargs.pop("model_type", None)
    try:
        config = AutoConfig.for_model(str(model_type), **kwargs)
    except ValueError as error:
        raise StageFailure(
            "UnknownArchitecture",
            f"model_type {model_type!r} is not known to transformers; use one such as llama, qwen3 or mistral",
        ) from error
    except Exception as error:  # what configuration classes raise on a field of the wrong type is theirs to choose
        raise StageFailure("BadArchitecture", f"{model_type}: {error}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise StageFailure("UnknownArchitecture", f"model_type {model_type!r} has no causal language model")
    return config


def load_config(folder: Path) -> Any:
    """The configuration of a checked folder."""
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def load_tokenizer(folder: Path, uri: str) -> Any:
    """The tokenizer of a checked folder, with a padding token. Raises StageFailure."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise StageFailure("TokenizerNotFound", f"{uri}: {error}") from error
    if tokenizer.eos_token_id is None:
        raise StageFailure("TokenizerNotFound", f"{uri}: the tokenizer has no eos_token, so no answer would ever end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: Path, adapter: Adapter) -> Any:
    """The causal model of a checked folder in float32 on CPU, wrapped for `adapter`."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    return with_adapter(model, adapter)


def with_adapter(model: Any, adapter: Adapter) -> Any:
    """`model` itself, or with LoRA matrices beside its frozen weights. Raises StageFailure for unknown modules."""
    if adapter.type == "none":
        return model
    from peft import LoraConfig, get_peft_model  # slow to import, and only LoRA needs it

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
        raise StageFailure("UnknownModules", f"training.adapter.targetModules: {error}") from error


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformers model: what it says must not be split over devices."""
    names = {name for module in model.modules() for name in (getattr(module, "_no_split_modules", None) or ())}
    return [module for module in model.modules() if type(module).__name__ in names]


def model_facts(config: Any, adapter: Adapter) -> ModelFacts:
    """Count a model's parameters without allocating them."""
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        layers = [_count(layer) for layer in decoder_layers(bare)]
        model = with_adapter(bare, adapter)
    text = config.get_text_config()
    return ModelFacts(
        model_type=config.model_type,
        parameters=_count(model),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        embedding_parameters=model.get_input_embeddings().weight.numel(),
        largest_layer_parameters=max(layers, default=0),
        num_layers=len(layers),
        hidden_size=text.hidden_size,
        intermediate_size=getattr(text, "intermediate_size", None) or 0,
        num_attention_heads=text.num_attention_heads,
        vocab_size=text.vocab_size,
        max_position_embeddings=getattr(text, "max_position_embeddings", None) or 0,
        tied_embeddings=bool(getattr(config, "tie_word_embeddings", False)),
    )


def tokenizer_digest(folder: Path) -> str:
    """Content digest of the tokenizer's files alone."""
    present = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    entries = [ManifestEntry(path=p.name, size=p.stat().st_size, sha256=file_sha256(p)) for p in present]
    return Manifest(files=entries).digest


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
