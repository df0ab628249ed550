"""A chat template and values for its variables, which jobs, services and evaluations share."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

MAX_TEMPLATE = 32_768  # characters
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# What a template gets from the conversation, and the arguments of transformers' apply_chat_template:
# https://huggingface.co/docs/transformers/main_classes/tokenizer
RESERVED = frozenset({
    "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "max_length",
    "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize",
    "tokenizer_kwargs", "tools", "truncation",
})  # fmt: skip


def check_kwargs(values: dict[str, Any]) -> dict[str, Any]:
    """The values, if a template can take them. Raises ValueError that names the first that it can't."""
    for name, value in values.items():
        if not _NAME.fullmatch(name) or name in RESERVED or name.endswith("_token"):
            raise ValueError(f"{name!r} can't be set: use a variable of the chat template, such as enable_thinking")
        if not isinstance(value, bool | int | float | str) or (isinstance(value, str) and len(value) > 1024):
            raise ValueError(f"{name} must be true, false, a number, or a text of at most 1024 characters")
    return values


ChatTemplateText = Annotated[str, Field(min_length=1, max_length=MAX_TEMPLATE)]
ChatTemplateKwargs = Annotated[
    dict[str, Any],
    AfterValidator(check_kwargs),
    Field(max_length=16, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
]
