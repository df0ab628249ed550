"""What a request asks, as drift and feedback see it. Pure."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text`: the prompt, or the last user turn. `messages`: the conversation, where it is more than that turn."""

    text: str
    messages: tuple[dict[str, str], ...] = ()

    @property
    def hash(self) -> bytes:
        """16 bytes of sha256 over all that was asked."""
        document = json.dumps([self.text, self.messages], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(document.encode()).digest()[:16]

    @property
    def size(self) -> int:
        """Characters held."""
        return len(self.text) + sum(len(message["content"]) for message in self.messages)


def prompt_of(body: dict[str, Any]) -> Prompt | None:
    """The prompt of a request's body; None where there is no text (token ids, images alone, a malformed body)."""
    if "messages" in body:
        return prompt_from(body["messages"])
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    return prompt_from(prompt)


def prompt_from(value: Any) -> Prompt | None:
    """The prompt in a string or a list of messages; None for anything else."""
    if isinstance(value, str):
        return Prompt(value)
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        return None
    messages = [{"role": str(m.get("role", "")), "content": _text(m.get("content"))} for m in value]
    turns = [message["content"] for message in messages if message["role"] == "user"]
    if not turns:
        return None
    return Prompt(turns[-1], () if len(messages) == 1 else tuple(messages))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts: Sequence[Any] = content if isinstance(content, list) else ()
    return "".join(str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part)
