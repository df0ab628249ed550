"""Checks whether a model folder is safe to load, for training and for serving.

Pickle files run code when they are read (https://docs.python.org/3/library/pickle.html). `auto_map` in a
configuration makes transformers run code from the folder (https://huggingface.co/docs/transformers/custom_models).
"""

import json
from collections.abc import Iterator
from pathlib import Path

from driftloop.contract.manifest import MANIFEST
from driftloop.contract.modelfolder import ADAPTER_FILES

PICKLED = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})


class UnreadableConfig(ValueError):
    """A configuration is not JSON. The message names the file."""


def pickled(folder: Path) -> Iterator[Path]:
    """The pickle files, sorted by path."""
    return (path for path in _files(folder) if path.suffix in PICKLED)


def has_safetensors(folder: Path) -> bool:
    """Whether the folder itself has safetensors. Loaders don't search subfolders."""
    return any(folder.glob("*.safetensors"))


def has_adapter(folder: Path) -> bool:
    """Whether the folder has an adapter. Loaders add it to the weights beside it, or to a model that it names."""
    return any((folder / name).exists() for name in ADAPTER_FILES)


def brings_code(folder: Path) -> str | None:
    """Name of the first configuration that requires code from the folder. Raises UnreadableConfig."""
    configs = (path for path in _files(folder) if path.name.endswith("config.json") and path.name != MANIFEST)
    return next((path.name for path in configs if _requires_code(path)), None)


def _requires_code(path: Path) -> bool:
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise UnreadableConfig(f"{path.name} is not JSON: {error}") from error
    return isinstance(config, dict) and "auto_map" in config


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
