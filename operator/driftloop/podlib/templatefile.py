"""The chat template in a model's folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from driftloop.contract.chattemplate import chosen

TEMPLATE_FILE, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"


def set_in_folder(folder: Path, template: str | None, values: Mapping[str, Any] | None) -> None:
    """Write the template to use into a model's folder. Without a template and values nothing changes.

    Raises ValueError like `chosen`, and OSError.
    """
    if template is None and values is None:
        return
    text = chosen(_own(folder), template, values)
    target = folder / TEMPLATE_FILE
    target.unlink(missing_ok=True)  # it may be a link to a file that others read
    target.write_text(text, encoding="utf-8")


def _own(folder: Path) -> Any:
    """The folder's template as transformers finds it: in a file of its own, else in the tokenizer's configuration."""
    if (path := folder / TEMPLATE_FILE).is_file():
        return path.read_text(encoding="utf-8")
    path = folder / TOKENIZER_CONFIG
    config = json.loads(path.read_bytes()) if path.is_file() else {}
    return config.get("chat_template") if isinstance(config, dict) else None
