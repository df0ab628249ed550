"""Rules about a row's text that training and serving must share to the letter. Pure."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Literal

Side = Literal["train", "heldOut"]

INSTRUCTIONS = ("system", "developer")  # roles of those who instruct the model, OpenAI's two names

_SPACE = re.compile(r"\s+")


def normalise(text: str) -> str:
    """NFKC, one space between words, none around: the form in which rows are compared.

    >>> normalise("  ﬁnd my\\ncard ")
    'find my card'
    """
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip()


def row_key(text: str) -> str:
    """Identity of a row: the hash of its prompt (or text), normalised and case-folded. Hex, 64 characters."""
    return hashlib.sha256(normalise(text).casefold().encode()).hexdigest()


def side(salt: str, text: str, held_out_percent: int) -> Side:
    """Which side of the fence a row lies on: the same in every job and every pod of an ancestry, for ever.

    The salt is the name of the family that the ancestry began with. Raising `held_out_percent` moves rows only from
    train to held-out.
    """
    digest = hashlib.sha256(f"{salt}\0{row_key(text)}".encode()).digest()
    return "heldOut" if int.from_bytes(digest[:8], "big") < held_out_percent * 2**64 // 100 else "train"


def conversation_identity(messages: Iterable[Mapping[str, Any]]) -> str:
    """The text that decides the side of a conversation: all that users, assistants and tools said before the answer.

    `messages` are those before the answer, content a string or None. Instructions don't count: the same question under
    another system prompt is the same question. Of a user's turn alone it is that turn's text. A tool call counts by
    its name and arguments; ids, which are drawn anew for each call, don't.
    """
    return "\n".join(_said(message) for message in messages if message["role"] not in INSTRUCTIONS)


def _said(message: Mapping[str, Any]) -> str:
    functions = [call.get("function", call) for call in message.get("tool_calls") or ()]
    calls = [f"{function.get('name')}({_arguments(function.get('arguments'))})" for function in functions]
    return "\n".join([message.get("content") or "", *calls])


def _arguments(value: Any) -> str:
    """One spelling of a call's arguments, which come as an object or as its JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
