"""What makes a model folder unsafe to load: one rule for what is trained from and for what is served.

Pickled files run code when they are read (https://docs.python.org/3/library/pickle.html), and `auto_map` in a
configuration names code that came with the weights (https://huggingface.co/docs/transformers/custom_models).
"""

import json
from collections.abc import Iterator
from pathlib import Path

from driftloop.contract.manifest import MANIFEST

PICKLED = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})


class UnreadableConfig(ValueError):
    """A configuration that is not JSON; the message names the file."""


def pickled(folder: Path) -> Iterator[Path]:
    """The pickled files, sorted by path."""
    return (path for path in _files(folder) if path.suffix in PICKLED)


def has_safetensors(folder: Path) -> bool:
    """Whether there are weights that can be loaded safely, where they are looked for: not in a folder below."""
    return any(folder.glob("*.safetensors"))


def brings_code(folder: Path) -> str | None:
    """Name of the first configuration that asks for code of its own. Raises UnreadableConfig."""
    configs = (path for path in _files(folder) if path.name.endswith("config.json") and path.name != MANIFEST)
    return next((path.name for path in configs if _asks_for_code(path)), None)


def _asks_for_code(path: Path) -> bool:
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise UnreadableConfig(f"{path.name} is not JSON: {error}") from error
    return isinstance(config, dict) and "auto_map" in config


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
