"""Conversations as data sets have them, as turns. Pure.

Read without doubt: OpenAI's messages (role and content, content as parts, tool calls and results), ShareGPT's (from and
value), either as JSON text or as columns of a struct. Everything else raises Unreadable.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from driftloop.contract.messages import CARRIED, TEXT_PARTS, carried, plain_content, spelled, tool_call
from driftloop_trainer.data.cells import Unreadable, cell_text, is_nothing
from driftloop_trainer.data.rows import Turn

# As templates name them, and what others call them.
_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "ai": "assistant", "model": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
    "function_call": "assistant",
}  # fmt: skip
# What is read of a message, and what says how to train on it, which is refused where it can't be followed.
_READ = frozenset({"role", "content", "from", "value", "weight", "train", "images", "audio", "videos", *CARRIED})
_PYTHON = re.compile(r"\s*\[\s*\{\s*'(?:role|content|from|value|type'\s*:\s*'text',\s*'text)'\s*:")
_JSON = re.compile(r'\s*(?:\[\s*)?\{\s*"(?:role|content|from|value)"\s*:')


def conversation(value: Any) -> tuple[Turn, ...]:
    """The turns of a cell; none where it is empty. Raises Unreadable that names the message."""
    messages = _messages(value)
    turns = []
    for number, message in enumerate(messages, start=1):
        try:
            turns.append(_turn(message))
        except ValueError as error:
            raise Unreadable(f"message {number}: {error}") from error
    return tuple(turns)


def is_conversation(value: Any) -> bool:
    """Whether a cell is meant as messages: a list of them, one alone, or their JSON text.

    Raises Unreadable for Python's spelling of a list, which is what pandas writes into CSV.
    """
    if isinstance(value, str):
        if _PYTHON.match(value) and value.rstrip().endswith("]"):
            raise Unreadable("messages in Python's spelling: write them as JSON (json.dumps), or as JSON lines")
        return bool(_JSON.match(value)) and is_conversation(_parsed(value))
    if isinstance(value, list):
        return bool(value) and all(_is_message(message) for message in value)
    return _is_message(value)


def answers_nothing(turn: Turn) -> bool:
    """Whether it is an assistant's turn with neither text nor tool calls: there is nothing to learn from it."""
    return turn.role == "assistant" and not turn.content.strip() and not calls_tools(turn)


def calls_tools(turn: Turn) -> bool:
    """Whether it has tool calls. (A quotation mark inside a JSON string has a backslash before it.)"""
    return '"tool_calls": [' in turn.extra


def tool_schemas(value: Any) -> str:
    """The JSON list of tool schemas in a cell; empty where there are none. Raises Unreadable."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise Unreadable(f"not JSON ({error}): give a list of tool schemas") from error
    if is_nothing(value) or value in ("", []):
        return ""
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise Unreadable(f"{spelled(value)} is not a list of tool schemas, each an object")
    return json.dumps(value, ensure_ascii=False)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_message(value: Any) -> bool:
    fields = value.keys() if isinstance(value, dict) else set()
    return ("role" in fields and bool({"content", "tool_calls"} & fields)) or {"from", "value"} <= fields


def _messages(value: Any) -> Sequence[Any]:
    if is_nothing(value):
        return ()
    if isinstance(value, str):
        if not value.strip():
            return ()
        if _PYTHON.match(value):
            raise Unreadable("Python's spelling of a list, not JSON: write it with json.dumps")
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"not JSON: {error}") from error
    if isinstance(value, dict):
        return _rows_of_columns(value)
    if not isinstance(value, list):
        raise Unreadable(f"{spelled(value)} is not a list of messages, each an object with role and content")
    return value


def _rows_of_columns(value: dict[str, Any]) -> list[dict[str, Any]]:
    """One message, or `{role: [...], content: [...]}`: how `datasets` keeps a list of objects."""
    if _is_message(value) and not any(isinstance(cell, list) for cell in (value.get("role"), value.get("from"))):
        return [value]
    lengths = {len(column) if isinstance(column, list) else -1 for column in value.values()}
    if not _is_message(value) or len(lengths) != 1 or -1 in lengths:
        raise Unreadable(f"{spelled(value)} is not a list of messages, each an object with role and content")
    return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


def _turn(message: Any) -> Turn:
    """Raises ValueError."""
    if not isinstance(message, Mapping):
        raise ValueError(f"{spelled(message)} is not an object with role and content")
    if message.get("from") is not None and message.get("role") is None:  # ShareGPT
        message = {**message, "role": message["from"], "content": message.get("value")}
    name = message.get("role")
    role = _ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise ValueError(f"its role is {spelled(name)}, not system, user, assistant or tool")
    unread = tuple(sorted(field for field, value in message.items() if field not in _READ and not _is_unset(value)))
    _refuse_what_would_be_lost(message, role, unread)
    if name == "function_call":
        return Turn(role, "", _spelled_out({"tool_calls": _called(message.get("content"))}), unread)
    return Turn(role, _content(message.get("content"), role), _spelled_out(carried(message)), unread)


def _is_unset(value: Any) -> bool:
    return is_nothing(value) or (isinstance(value, str | list | dict) and not value)


def _refuse_what_would_be_lost(message: Mapping[str, Any], role: str, unread: Sequence[str]) -> None:
    # Without any other field it is empty: Parquet has no content where it is null.
    if unread and not ({"content", "value", "tool_calls", "function_call"} & message.keys()):
        raise ValueError(f"it has neither content nor tool_calls but {', '.join(message)}")
    for field in ("images", "audio", "videos"):
        if message.get(field):
            raise ValueError(f"it has {field}: only text can be read")
    for field, whole in (("weight", 1), ("train", True)):
        if role == "assistant" and message.get(field, whole) not in (whole, None):
            raise ValueError(f"{field} {message[field]}: turns can't be left out of the loss one by one: drop the row")


def _content(content: Any, role: str) -> str:
    if role == "tool" and isinstance(content, list | dict) and not _has_parts(content):
        return json.dumps(content, ensure_ascii=False)  # a tool's result, as its JSON text
    if isinstance(content, list | str | None):
        return plain_content(content)
    return cell_text(content) or ""


def _has_parts(content: list[Any] | dict[str, Any]) -> bool:
    """Whether a tool's result is a list of content parts. Raises ValueError where it may be either."""
    if isinstance(content, dict):
        return False
    kinds = [part.get("type") for part in content if isinstance(part, Mapping) and isinstance(part.get("type"), str)]
    if not kinds:
        return False
    if len(kinds) == len(content) and set(kinds) <= set(TEXT_PARTS):
        return True
    raise ValueError(
        f"the tool's result is a list with type {kinds[0]!r}: only text parts can be read; write a result that is "
        "no list of parts as its JSON text"
    )


def _called(value: Any) -> list[dict[str, Any]]:
    """ShareGPT's function_call: the JSON of one call, or of a list of them."""
    calls = _parsed(value) if isinstance(value, str) else value
    if not calls or not isinstance(calls, list | dict):
        raise ValueError(f"function_call is {spelled(value)}, not the JSON of a call with name and arguments")
    return [tool_call(call) for call in (calls if isinstance(calls, list) else [calls])]


def _spelled_out(extra: dict[str, Any]) -> str:
    """Keys sorted; the arguments of a call stay in their order, as templates render them."""
    return json.dumps(dict(sorted(extra.items())), ensure_ascii=False) if extra else ""
