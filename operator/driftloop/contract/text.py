"""Rules about a row's text that must be exactly the same in training and serving. Pure."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Literal

Side = Literal["train", "heldOut"]

INSTRUCTIONS = ("system", "developer")  # OpenAI's two roles for instructions to the model

_SPACE = re.compile(r"\s+")


def normalise(text: str) -> str:
    """The form in which rows are compared: NFKC, one space between words, no space around.

    >>> normalise("  ﬁnd my\\ncard ")
    'find my card'
    """
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip()


def is_blank(text: str) -> bool:
    """Whether a text has nothing to see: only spaces, controls, and format characters such as a zero-width space.

    >>> [is_blank(text) for text in ("", " \\n", "\\u200b\\ufeff", "a", "\\ue000")]
    [True, True, True, False, False]
    """
    return all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in text)


def row_key(text: str) -> str:
    """Identity of a row: the SHA-256 of its prompt or text, normalised and case-folded. 64 hex characters."""
    return hashlib.sha256(normalise(text).casefold().encode()).hexdigest()


def side(salt: str, text: str, held_out_percent: int) -> Side:
    """The side of a row: the same in all jobs and pods of an ancestry, for ever.

    The salt is the family of the first version of the ancestry. A higher `held_out_percent` only moves rows from train
    to held-out.
    """
    digest = hashlib.sha256(f"{salt}\0{row_key(text)}".encode()).digest()
    return "heldOut" if int.from_bytes(digest[:8], "big") < held_out_percent * 2**64 // 100 else "train"


def conversation_identity(messages: Iterable[Mapping[str, Any]]) -> str:
    """The text that decides the side of a conversation: all messages of users, assistants and tools before the answer.

    `messages` are those before the answer; their content is a string or None. Instructions don't count: the same
    question with another system prompt is the same question. For a single user turn it is the text of that turn. Name
    and arguments of a tool call count; its id does not, as every call gets a new one.
    """
    return "\n".join(_text(message) for message in messages if message["role"] not in INSTRUCTIONS)


def _text(message: Mapping[str, Any]) -> str:
    functions = [call.get("function", call) for call in message.get("tool_calls") or ()]
    calls = [f"{function.get('name')}({_arguments(function.get('arguments'))})" for function in functions]
    return "\n".join([message.get("content") or "", *calls])


def _arguments(value: Any) -> str:
    """Canonical JSON of a call's arguments, which are an object or JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
