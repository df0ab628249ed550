"""What ends generation, as engines read it: `eos_token_id` of generation_config.json."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

GENERATION = "generation_config.json"


def end_generation(folder: Path, turn_ends: Iterable[int], tokenizer_end: int) -> None:
    """Let the tokens that ended the answers in training end generation, and the tokenizer's, and what did before.

    A chat template may end its turns with another token than the tokenizer's eos (ChatML on a base model): a server
    that doesn't know it goes on until the limit. Our engine, transformers' generate and vLLM read this file; vLLM with
    `--generation-config vllm` too, which is about the defaults of sampling alone. It is edited as JSON: transformers
    checks a changed configuration more strictly than one that it loaded, and refuses to write it.
    """
    path = folder / GENERATION
    fields = _fields(path)
    before = fields.get("eos_token_id", _fields(folder / "config.json").get("eos_token_id"))
    found = [*turn_ends, tokenizer_end, *(before if isinstance(before, list) else [before])]
    ends = list(dict.fromkeys(token for token in found if token is not None))
    path.write_text(json.dumps(fields | {"eos_token_id": ends[0] if len(ends) == 1 else ends}, indent=2) + "\n")


def _fields(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}
