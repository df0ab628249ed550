"""The tokens that end generation: engines read them from `eos_token_id` of generation_config.json."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

GENERATION = "generation_config.json"


def end_generation(folder: Path, turn_ends: Iterable[int], tokenizer_end: int) -> None:
    """Add the tokens that ended answers in training, and the tokenizer's end token, to the base model's end tokens.

    A chat template may end its turns with a token that is not the tokenizer's eos (ChatML on a base model). A server
    that does not know this token generates up to the limit. Our engine, transformers' generate and vLLM read this file.
    vLLM also reads it with `--generation-config vllm`, which only changes the sampling defaults. The file is edited as
    JSON because transformers checks a configuration more strictly when it saves it than when it loads it
    (https://github.com/huggingface/transformers/issues/29988).
    """
    path = folder / GENERATION
    fields = _fields(path)
    before = fields.get("eos_token_id", _fields(folder / "config.json").get("eos_token_id"))
    tokens = [*turn_ends, tokenizer_end, *(before if isinstance(before, list) else [before])]
    ends = list(dict.fromkeys(token for token in tokens if token is not None))
    path.write_text(json.dumps(fields | {"eos_token_id": ends[0] if len(ends) == 1 else ends}, indent=2) + "\n")


def _fields(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}
