"""Checks of the files in a Hugging Face model folder, without loading the model."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.manifest import Manifest, ManifestEntry, file_sha256
from driftloop.contract.modelfolder import INDEX, SINGLE
from driftloop.contract.reasons import StageReason
from driftloop.contract.uris import join
from driftloop.podlib import safety
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import exists

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


def check_model_files(folder: Path, uri: str, bases: Sequence[str] = ()) -> dict[str, Any]:
    """Check that the model can be loaded without running its own code. Returns the fields of config.json.

    `bases`: the folders with its weights, if it is an adapter alone. Raises StageFailure.
    """
    config = _json(folder / "config.json")
    if config is None:
        raise StageFailure(
            StageReason.MODEL_NOT_FOUND, f"{uri}: no readable config.json; give the folder of a Hugging Face model"
        )
    try:
        name = safety.brings_code(folder)
    except safety.UnreadableConfig as error:
        raise StageFailure(StageReason.MODEL_NOT_FOUND, f"{uri}: {error}") from error
    if name is not None:
        raise StageFailure(
            StageReason.REMOTE_CODE, f"{uri}: {name} has auto_map: models with their own code are not loaded"
        )
    if (method := _quantisation(folder, config)) is not None:
        raise StageFailure(
            StageReason.QUANTISED_MODEL,
            f"{uri}: its weights are quantised ({method}) and can't be trained: use the full-precision safetensors "
            "(float32, bfloat16 or float16) of the same model",
        )
    if safety.has_adapter(folder) and not bases:
        raise StageFailure(
            StageReason.MODEL_NOT_FOUND,
            f"{uri}: an adapter is not a whole model: start from its ModelVersion (model.from.versionRef), which names "
            "its base, or merge it",
        )
    whole = bases[-1] if bases else uri
    if not (safety.has_safetensors(folder) or any(exists(join(whole, name)) for name in (INDEX, SINGLE))):
        if any(safety.pickled(folder)):
            raise StageFailure(
                StageReason.PICKLE_WEIGHTS, f"{uri}: pickled weights can run code; convert them to safetensors"
            )
        raise StageFailure(StageReason.MODEL_NOT_FOUND, f"{uri}: no *.safetensors file")
    return config


def tokenizer_digest(folder: Path, training: TrainingSpec) -> str:
    """Content digest of the tokenizer's files, and of the chat template that the job sets."""
    present = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    entries = [ManifestEntry(path=p.name, size=p.stat().st_size, sha256=file_sha256(p)) for p in present]
    changes = training.model_dump(include={"chat_template", "chat_template_kwargs"}, exclude_none=True)
    if changes:
        text = json.dumps(changes, sort_keys=True).encode()
        entries.append(ManifestEntry(path="training", size=len(text), sha256=hashlib.sha256(text).hexdigest()))
    return Manifest(files=entries).digest


def _quantisation(folder: Path, config: dict[str, Any]) -> str | None:
    """The method of quantisation, from config.json or the files that GPTQ and ModelOpt write; None without any."""
    text = config.get("text_config")
    for fields in (config, text if isinstance(text, dict) else {}):
        for name in ("quantization_config", "compression_config"):
            if isinstance(method := fields.get(name), dict):
                return str(method.get("quant_method") or name)
    names = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
    return next((name for name in names if (folder / name).exists()), None)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
